"""What the platform's processes count, and the page on which Prometheus reads it."""

from datetime import datetime

from django.http import Http404, HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest

from aiia_platform.internal import is_internal, is_local

CONTENT_TYPE = CONTENT_TYPE_LATEST
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_FIRST_TOKEN_S = (0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60, 120, 300, 600)
# A sender names the model, whether there is one of that name or not.
_MOST_MODELS = 500

web_requests = Counter("aiia_web_requests", "Requests for pages and API, by route.", ["route", "method", "status"])
web_duration = Histogram(
    "aiia_web_request_seconds", "Time to the begin of a response, by route.", ["route"], buckets=_REQUEST_S
)
followers = Gauge("aiia_web_followers", "Browsers that follow an answer.")

running = Gauge("aiia_worker_generations_running", "Answers that this worker is at.")
ended = Counter(
    "aiia_worker_generations",
    "Answers that this worker ended, by outcome (done, stopped, failed).",
    ["model", "outcome"],
)
takeovers = Counter("aiia_worker_takeovers", "Answers that this worker went on with after another attempt.")
first_token = Histogram(
    "aiia_worker_first_token_seconds",
    "Time from a question to the first token of its answer.",
    ["model"],
    buckets=_FIRST_TOKEN_S,
)
# Read from the database when Prometheus asks a worker.
active = Gauge("aiia_generations_active", "Answers of all workers that have not ended, by state.", ["state"])
heartbeats = Gauge(
    "aiia_worker_heartbeat_age_seconds", "Time since a worker last gave a sign of life, of all workers.", ["worker"]
)

_models: set[str] = set()


def generation_ended(model: str, outcome: str, queued_at: datetime, first_token_at: datetime | None) -> None:
    """Counts an answer that has ended."""
    if model not in _models and len(_models) >= _MOST_MODELS:
        model = "other"
    _models.add(model)
    ended.labels(model, outcome).inc()
    if first_token_at is not None:
        first_token.labels(model).observe(max(0.0, (first_token_at - queued_at).total_seconds()))


def page() -> bytes:
    """Every metric of this process as Prometheus's text, of the type `CONTENT_TYPE`."""
    return generate_latest(REGISTRY)


def show(request: HttpRequest) -> HttpResponse:
    """`page` for this machine and for holders of the internal token; nobody else learns that it is there."""
    if not (is_local(request) or is_internal(request)):
        raise Http404
    return HttpResponse(page(), content_type=CONTENT_TYPE)
