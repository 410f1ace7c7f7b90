"""Writes the Grafana dashboards beside this file: ``python dashboards/build.py``. Edit here, not the JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24


@dataclass(frozen=True)
class Panel:
    """``queries`` from legend to PromQL; ``unit`` is Grafana's; a ``stat`` shows the last value, large."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    stacked: bool = False
    note: str = ""

    def build(self, number: int, x: int, y: int) -> dict[str, Any]:
        height = 4 if self.kind == "stat" else 8
        custom = {"fillOpacity": 25, "stacking": {"mode": "normal"}} if self.stacked else {"fillOpacity": 5}
        return {
            "id": number,
            "title": self.title,
            "description": self.note,
            "type": self.kind,
            "datasource": _DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": height},
            "fieldConfig": {
                "defaults": {"unit": self.unit, "min": 0, "custom": custom if self.kind == "timeseries" else {}},
                "overrides": [],
            },
            "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
            if self.kind == "timeseries"
            else {"reduceOptions": {"calcs": ["lastNotNull"]}},
            "targets": [
                {"refId": chr(ord("A") + place), "datasource": _DATASOURCE, "expr": expr, "legendFormat": legend}
                for place, (legend, expr) in enumerate(self.queries.items())
            ],
        }


def _stat(title: str, expr: str, unit: str = "short", note: str = "") -> Panel:
    return Panel(title, {"": expr}, unit, "stat", 4, note=note)


def _quantile(q: float, metric: str, by: str = "") -> str:
    chosen = '{model=~"$model"}'
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{chosen}[$__rate_interval])))"


def _rate(metric: str, by: str, more: str = "") -> str:
    chosen = f'{{model=~"$model"{more}}}'
    return f"sum by ({by}) (rate({metric}{chosen}[$__rate_interval]))"


_MODEL = 'model=~"$model"'

OVERVIEW = [
    _stat("Requests per second", "sum(rate(aiia_gateway_requests_total[$__rate_interval]))", "reqps"),
    _stat("Tokens per second", "sum(rate(aiia_gateway_completion_tokens_total[$__rate_interval]))"),
    _stat("First token, p95", _quantile(0.95, "aiia_gateway_first_token_seconds"), "s"),
    _stat("Waiting", "sum(max by (model, class) (aiia_queue_waiting))"),
    _stat("Models ready", 'sum(aiia_model_state{state="ready"})'),
    _stat(
        "Oldest worker heartbeat", "max(aiia_worker_heartbeat_age_seconds)", "s", "More than 15 s: it hangs or died."
    ),
    Panel(
        "Requests by outcome", {"{{outcome}}": _rate("aiia_gateway_requests_total", "outcome")}, "reqps", stacked=True
    ),
    Panel(
        "Errors by cause", {"{{code}}": "sum by (code) (rate(aiia_gateway_errors_total[$__rate_interval]))"}, "reqps"
    ),
    Panel(
        "Time to first token",
        {f"p{int(q * 100)}": _quantile(q, "aiia_gateway_first_token_seconds") for q in (0.5, 0.95, 0.99)},
        "s",
        note="Waiting included.",
    ),
    Panel(
        "Speed of an answer",
        {f"p{int(q * 100)}": _quantile(q, "aiia_gateway_output_tokens_per_second") for q in (0.5, 0.05)},
        "tokens/s",
    ),
    Panel(
        "Answers to people, by outcome",
        {
            "{{outcome}}": f"sum by (outcome) (rate(aiia_worker_generations_total{{{_MODEL}}}[$__rate_interval]))",
            "taken over": "sum(rate(aiia_worker_takeovers_total[$__rate_interval]))",
        },
        "reqps",
    ),
    Panel(
        "Answers under way",
        {"{{state}}": "max by (state) (aiia_generations_active)", "followers": "sum(aiia_web_followers)"},
    ),
    Panel(
        "Pages: time to answer, p95 by route",
        {
            "{{route}}": "histogram_quantile(0.95, sum by (le, route) "
            "(rate(aiia_web_request_seconds_bucket[$__rate_interval])))"
        },
        "s",
    ),
    Panel(
        "Pages by status",
        {"{{status}}": "sum by (status) (rate(aiia_web_requests_total[$__rate_interval]))"},
        "reqps",
        stacked=True,
    ),
    Panel("Memory by role", {"{{job}} {{instance}}": "process_resident_memory_bytes"}, "bytes"),
    Panel(
        "Processor by role",
        {"{{job}} {{instance}}": "rate(process_cpu_seconds_total[$__rate_interval])"},
        "percentunit",
    ),
]

QUEUE = [
    _stat("Waiting", f"sum(max by (model, class) (aiia_queue_waiting{{{_MODEL}}}))"),
    _stat("Running", f"sum(max by (model) (aiia_queue_running{{{_MODEL}}}))"),
    _stat("Slots", f"sum(max by (model) (aiia_queue_slots{{{_MODEL}}}))"),
    _stat("Queued work", f"max(aiia_queue_work_seconds{{{_MODEL}}})", "s"),
    _stat("Oldest wait", f"max(aiia_queue_oldest_wait_seconds{{{_MODEL}}})", "s"),
    _stat("Refused, full", 'sum(rate(aiia_gateway_errors_total{code="queue_full"}[$__rate_interval]))', "reqps"),
    Panel(
        "Waiting by class",
        {"{{model}} {{class}}": f"max by (model, class) (aiia_queue_waiting{{{_MODEL}}})"},
        stacked=True,
        note="Every gateway shows the whole queue, hence the maximum.",
    ),
    Panel(
        "Running and slots",
        {
            "{{model}} running": f"max by (model) (aiia_queue_running{{{_MODEL}}})",
            "{{model}} slots": f"max by (model) (aiia_queue_slots{{{_MODEL}}})",
        },
    ),
    Panel("Wait by class, p50", {"{{class}}": _quantile(0.5, "aiia_gateway_queue_wait_seconds", "class")}, "s"),
    Panel("Wait by class, p99", {"{{class}}": _quantile(0.99, "aiia_gateway_queue_wait_seconds", "class")}, "s"),
    Panel("Queued work", {"{{model}}": f"max by (model) (aiia_queue_work_seconds{{{_MODEL}}})"}, "s"),
    Panel(
        "Oldest wait by class",
        {"{{model}} {{class}}": f"max by (model, class) (aiia_queue_oldest_wait_seconds{{{_MODEL}}})"},
        "s",
    ),
    Panel(
        "Tokens written, by user",
        {"{{user}}": "topk(10, " + _rate("aiia_gateway_completion_tokens_total", "user") + ")"},
        stacked=True,
        note="Users by id; the first AIIA_METRICS_USERS of a process, then other.",
    ),
    Panel(
        "GPU time of images, by user",
        {"{{user}}": "topk(10, " + _rate("aiia_gateway_gpu_seconds_total", "user") + ")"},
        "s",
        stacked=True,
    ),
]

MODELS = [
    _stat("Ready", f'sum(aiia_model_state{{state="ready", {_MODEL}}})'),
    _stat("Failed", f'sum(aiia_model_state{{state="failed", {_MODEL}}})'),
    _stat("Replicas", f"sum(aiia_model_replicas{{{_MODEL}}})"),
    _stat("Start, p95", _quantile(0.95, "aiia_model_start_seconds"), "s"),
    _stat(
        "Continued answers", f"sum(increase(aiia_gateway_continued_answers_total{{{_MODEL}}}[1h]))", note="Last hour."
    ),
    _stat("Further tries", f"sum(increase(aiia_gateway_upstream_retries_total{{{_MODEL}}}[1h]))", note="Last hour."),
    Panel(
        "State",
        {"{{model}} {{state}}": f"aiia_model_state{{{_MODEL}}} == 1"},
        kind="state-timeline",
        width=24,
    ),
    Panel(
        "Replicas",
        {
            "{{model}}": f"aiia_model_replicas{{{_MODEL}}}",
            "{{model}} most": f"aiia_model_max_replicas{{{_MODEL}}}",
        },
    ),
    Panel("Progress of starts and downloads", {"{{model}}": f"aiia_model_progress{{{_MODEL}}}"}, "percentunit"),
    Panel("Tokens written", {"{{model}}": _rate("aiia_gateway_completion_tokens_total", "model")}, stacked=True),
    Panel(
        "Prompt tokens found in the cache",
        {
            "{{model}}": _rate("aiia_gateway_cached_prompt_tokens_total", "model")
            + " / "
            + _rate("aiia_gateway_prompt_tokens_total", "model")
        },
        "percentunit",
    ),
    Panel(
        "First token by model, p95", {"{{model}}": _quantile(0.95, "aiia_gateway_first_token_seconds", "model")}, "s"
    ),
    Panel("Changes of state", {"{{model}} {{state}}": _rate("aiia_model_transitions_total", "model, state")}),
    Panel("Image steps", {"{{model}}": _rate("aiia_gateway_image_steps_total", "model")}),
    Panel(
        "Engines: running and waiting in vLLM",
        {
            "{{model_name}} running": "sum by (model_name) (vllm:num_requests_running)",
            "{{model_name}} waiting": "sum by (model_name) (vllm:num_requests_waiting)",
        },
    ),
    Panel(
        "Engines: KV cache in use", {"{{model_name}}": "max by (model_name) (vllm:kv_cache_usage_perc)"}, "percentunit"
    ),
    Panel(
        "Engines: prefix cache hits",
        {
            "{{model_name}}": "sum by (model_name) (rate(vllm:prefix_cache_hits_total[$__rate_interval])) / "
            "sum by (model_name) (rate(vllm:prefix_cache_queries_total[$__rate_interval]))"
        },
        "percentunit",
    ),
]

DASHBOARDS = {
    "aiia-overview": ("aiia: overview", OVERVIEW),
    "aiia-queue": ("aiia: queue", QUEUE),
    "aiia-models": ("aiia: models", MODELS),
}


def dashboard(uid: str) -> dict[str, Any]:
    """One dashboard in Grafana's JSON, to be imported or provisioned."""
    title, panels = DASHBOARDS[uid]
    placed, x, y, row = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > _WIDTH:
            x, y = 0, y + row
        built = panel.build(number, x, y)
        placed.append(built)
        x, row = x + panel.width, built["gridPos"]["h"]
    return {
        "uid": uid,
        "title": title,
        "tags": ["aiia"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"},
                {
                    "name": "model",
                    "type": "query",
                    "label": "Model",
                    "datasource": _DATASOURCE,
                    "query": {"query": "label_values(aiia_queue_slots, model)", "refId": "models"},
                    "includeAll": True,
                    "allValue": ".*",
                    "multi": True,
                    "refresh": 2,
                },
            ]
        },
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "tags": ["aiia"], "title": "aiia", "asDropdown": True}],
        "panels": placed,
    }


def text(uid: str) -> str:
    """The file of one dashboard."""
    return json.dumps(dashboard(uid), indent=2) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (HERE / f"{name}.json").write_text(text(name))
