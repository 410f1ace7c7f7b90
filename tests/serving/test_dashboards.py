"""The files for Grafana and Prometheus name only what there is to see."""

import json
import re
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from aiia_platform.observability import metrics as platform_metrics
from aiia_serving.engines import http as small_engine
from aiia_serving.gateway import metrics as gateway_metrics
from aiia_serving.images.engine import http as image_engine
from aiia_serving.manager import metrics as manager_metrics
from tests.fakes import ROOT
from tests.support.beside import load

pytestmark = pytest.mark.unit

FOLDER = ROOT / "dashboards"
GUIDE = ROOT / "docs" / "operators" / "observability.md"
#: Of vLLM 0.29, as its engines show them.
VLLM = {
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
}
OF_PROCESSES = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
_NAME = re.compile(r"\b(?:aiia_[a-z_]+|vllm:[a-z_]+|process_[a-z_]+)\b")


def _build() -> ModuleType:
    return load(FOLDER / "build.py", "dashboards_build")


def ours() -> dict[str, Any]:
    """Every metric that is defined in the code, by the name it has in the code of its series."""
    modules = (platform_metrics, gateway_metrics, manager_metrics)
    found = [value for module in modules for value in vars(module).values() if isinstance(value, MetricWrapperBase)]
    return {family.name: family for metric in found for family in metric.describe()}


def series() -> set[str]:
    """The names by which Prometheus can be asked for them."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return {name + end for name, family in ours().items() for end in endings[family.type]} | VLLM | OF_PROCESSES


def expressions() -> Iterator[tuple[str, str]]:
    for file in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.name}: {panel['title']}", target["expr"]
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_every_question_is_about_a_metric_that_exists() -> None:
    known = series()
    for where, expression in expressions():
        names = set(_NAME.findall(expression))
        assert names or expression.startswith("up{"), where
        assert names <= known, f"{where} asks for {names - known}"
        assert expression.count("(") == expression.count(")"), where
        assert expression.count("{") == expression.count("}"), where


def test_the_files_are_those_that_the_script_writes() -> None:
    build = _build()
    assert {file.stem for file in FOLDER.glob("*.json")} == set(build.DASHBOARDS)
    for name in build.DASHBOARDS:
        assert (FOLDER / f"{name}.json").read_text() == build.text(name), "run dashboards/build.py"


def test_panels_do_not_overlap() -> None:
    for file in FOLDER.glob("*.json"):
        taken: set[tuple[int, int]] = set()
        panels = json.loads(file.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        for panel in panels:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not taken & cells, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells


async def of_a_replica(app: ASGIApp) -> set[str]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replica") as client:
        page = (await client.get("/metrics")).text
    families = [family for family in text_string_to_metric_families(page) if not family.name.endswith("_created")]
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


async def of_replicas() -> set[str]:
    """What embedding, rerank and image models show, by the names in the guide."""
    idle: Any = SimpleNamespace(waiting=0, memory=SimpleNamespace(used=lambda: (0, 0)))
    unasked: Any = None
    small = await of_a_replica(small_engine.http_application("/v1/embeddings", unasked))
    return small | await of_a_replica(image_engine.http_application(idle, "replica-1"))


async def test_the_guide_names_every_metric() -> None:
    guide = GUIDE.read_text()
    named = set(re.findall(r"`(aiia_[a-z_]+)`", guide))
    described = {name + ("_total" if family.type == "counter" else "") for name, family in ours().items()}
    assert named == described | await of_replicas()


def test_nobody_else_takes_our_names() -> None:
    registered = {family.name for family in REGISTRY.collect() if family.name.startswith("aiia_")}
    assert registered == set(ours())
