"""What the gateway counts: once per request, and the queues when Prometheus asks. Never per token."""

import os
import time

from prometheus_client import Counter, Gauge, Histogram

from aiia_serving.gateway.usage import Outcome, Usage
from aiia_serving.metrics import Few
from aiia_serving.queue import QueueLoad

_WAIT_S = (0.005, 0.05, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60, 300)
_REQUEST_S = (0.05, 0.25, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_BEFORE_ANY_MODEL = {"model_not_found", "manager_unavailable"}
_SPEED = (1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200, 400)

# Error codes of remote endpoints are theirs to choose; models come and go.
_code = Few(100)
_model = Few(500)
_user = Few(int(os.environ.get("AIIA_METRICS_USERS") or 100))

requests = Counter(
    "aiia_gateway_requests",
    "Requests that were over, by outcome (complete, cancelled, failed) and HTTP status.",
    ["model", "class", "kind", "outcome", "status"],
)
errors = Counter("aiia_gateway_errors", "Errors that callers were told, by code.", ["code"])
queue_wait = Histogram(
    "aiia_gateway_queue_wait_seconds", "Time until a request had its slot.", ["model", "class"], buckets=_WAIT_S
)
first_token = Histogram(
    "aiia_gateway_first_token_seconds",
    "Time from a request's arrival to its first token, waiting included.",
    ["model", "class"],
    buckets=_FIRST_TOKEN_S,
)
duration = Histogram(
    "aiia_gateway_request_seconds", "Time from a request's arrival to its end.", ["model", "class"], buckets=_REQUEST_S
)
speed = Histogram(
    "aiia_gateway_output_tokens_per_second",
    "Speed of an answer after its first token, of answers of at least 8 tokens.",
    ["model"],
    buckets=_SPEED,
)
prompt_tokens = Counter("aiia_gateway_prompt_tokens", "Tokens that models read.", ["model", "user"])
completion_tokens = Counter("aiia_gateway_completion_tokens", "Tokens that models wrote.", ["model", "user"])
cached_tokens = Counter(
    "aiia_gateway_cached_prompt_tokens", "Those of the prompt tokens that the model found in its cache.", ["model"]
)
image_steps = Counter("aiia_gateway_image_steps", "Steps of image models.", ["model", "user"])
gpu_seconds = Counter("aiia_gateway_gpu_seconds", "GPU time of image requests.", ["model", "user"])
continuations = Counter(
    "aiia_gateway_continued_answers", "Answers whose stream broke and that went on at another replica.", ["model"]
)
retries = Counter("aiia_gateway_upstream_retries", "Further tries after a model was lost.", ["model"])
key_checks = Counter("aiia_gateway_key_checks", "Looks at the cache of API keys, by result (hit, miss).", ["result"])

queue_waiting = Gauge("aiia_queue_waiting", "Requests that wait, over all gateways.", ["model", "class"])
queue_oldest = Gauge(
    "aiia_queue_oldest_wait_seconds", "How long the first of the waiting requests has waited.", ["model", "class"]
)
queue_running = Gauge("aiia_queue_running", "Requests that have a slot, over all gateways.", ["model"])
queue_slots = Gauge("aiia_queue_slots", "Requests that may run at the same time.", ["model"])
queue_work = Gauge("aiia_queue_work_seconds", "Estimated time of all waiting work at the present speed.", ["model"])


def finished(usage: Usage, *, retried: int = 0, continued: int = 0) -> None:
    """Counts a request that has entered the queue of a model that exists."""
    model, user, now = _model(usage.model), _user(usage.user), time.monotonic()
    if usage.admitted_at is not None:
        queue_wait.labels(model, usage.work_class).observe(usage.queued_s)
    if usage.first_token_at is not None:
        first_token.labels(model, usage.work_class).observe(usage.first_token_at - usage.began)
        writing = now - usage.first_token_at
        if usage.completion_tokens >= 8 and writing > 0:
            speed.labels(model).observe((usage.completion_tokens - 1) / writing)
    duration.labels(model, usage.work_class).observe(now - usage.began)
    prompt_tokens.labels(model, user).inc(usage.prompt_tokens)
    completion_tokens.labels(model, user).inc(usage.completion_tokens)
    cached_tokens.labels(model).inc(usage.cached_tokens)
    if usage.unit == "gpu_ms":
        image_steps.labels(model, user).inc(usage.steps)
        gpu_seconds.labels(model, user).inc(usage.gpu_ms / 1000)
    # Made also when there is nothing to count: a rate needs a zero to start from.
    retries.labels(model).inc(retried)
    continuations.labels(model).inc(continued)


def answered(usage: Usage | None, outcome: Outcome, status: int, code: str | None) -> None:
    """Counts what a caller was told; without ``usage`` for a request that was refused before it was understood.

    A caller who left before any answer counts as status 499, as with nginx.
    """
    # A name that nobody knows is the caller's own, and would make a label of every typo.
    model = _model(usage.model) if usage is not None and code not in _BEFORE_ANY_MODEL else ""
    work_class, kind = (usage.work_class, usage.kind) if usage is not None else ("", "")
    requests.labels(model, work_class, kind, outcome, str(status or 499)).inc()
    if code is not None:
        errors.labels(_code(code)).inc()


def show_queues(loads: dict[str, QueueLoad]) -> None:
    """Sets the gauges of the queues to what they are now."""
    for gauge in (queue_waiting, queue_oldest, queue_running, queue_slots, queue_work):
        gauge.clear()
    for model, load in loads.items():
        queue_running.labels(model).set(load.running)
        queue_slots.labels(model).set(load.slots)
        if load.work_s is not None:
            queue_work.labels(model).set(load.work_s)
        for work_class, waiting in load.classes.items():
            queue_waiting.labels(model, work_class).set(waiting.waiting)
            queue_oldest.labels(model, work_class).set(waiting.oldest_s)
