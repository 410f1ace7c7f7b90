"""HTTP of the small engines: one route, OpenAI's error bodies, health and metrics."""

import json
import logging
import time
import traceback
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from aiia_serving import tracing
from aiia_serving.catalogue.loader import describe
from aiia_serving.replica import Traced

log = logging.getLogger(__name__)


class BadRequest(Exception):
    """The caller's mistake: answered with 400 and this message. ``field`` names the part of the body."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Endpoint(Protocol):
    """Takes the body of a request and gives the body of its answer, which has ``usage``."""

    async def __call__(self, body: Any) -> dict[str, Any]: ...


def http_application(path: str, endpoint: Endpoint) -> Starlette:
    """The application that answers POST requests to ``path``, and GET ``/health`` and ``/metrics``."""
    metrics = _Metrics()

    async def answer(request: Request) -> Response:
        started = time.perf_counter()
        tokens, outcome = 0, "cancelled"
        try:
            response, tokens, outcome = await _answer(endpoint, request)
            metrics.tokens.inc(tokens)
            return response
        finally:
            metrics.requests.labels(outcome).inc()
            metrics.seconds.observe(time.perf_counter() - started)
            tracing.ended(outcome, tokens=tokens)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def show_metrics(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route(path, answer, methods=["POST"], middleware=[Middleware(Traced, f"POST {path}")]),
            Route("/health", health),
            Route("/metrics", show_metrics),
        ]
    )


async def _answer(endpoint: Endpoint, request: Request) -> tuple[Response, int, str]:
    """The response, the tokens that were computed, and how it ended."""
    try:
        body = json.loads(await request.body())
    except ValueError:
        return _error(400, "the body is not JSON"), 0, "refused"
    try:
        answer = await endpoint(body)
    except ValidationError as error:
        return _error(400, describe(error)), 0, "refused"
    except BadRequest as error:
        return _error(400, str(error), error.field), 0, "refused"
    except Exception as error:
        # Without the error's own words, which may repeat the request's.
        log.error("request failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        return _error(500, "the model failed on this request"), 0, "failed"
    return JSONResponse(answer), answer["usage"]["total_tokens"], "complete"


def _error(status: int, message: str, field: str | None = None) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": field, "code": None}}, status)


class _Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "aiia_engine_requests", "Requests by how they ended", ["outcome"], registry=self.registry
        )
        self.tokens = Counter("aiia_engine_tokens", "Tokens of the inputs that were computed", registry=self.registry)
        self.seconds = Histogram("aiia_engine_request_seconds", "Time in the replica", registry=self.registry)
