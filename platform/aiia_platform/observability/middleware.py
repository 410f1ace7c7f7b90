"""One request id, one span, one line of the log and one count per request."""

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from aiia_platform.internal import is_internal
from aiia_platform.observability import metrics, tracing
from aiia_platform.observability.logs import request_id

log = logging.getLogger(__name__)

Middleware = Callable[[HttpRequest], HttpResponseBase] | Callable[[HttpRequest], Awaitable[HttpResponseBase]]
#: Asked all the time by machines, so that they would hide what people ask for.
_PROBES = {"/healthz", "/readyz", "/metrics"}


@sync_and_async_middleware
def observed(get_response: Any) -> Middleware:
    """Django's middleware; it goes first, so that nothing answers unseen."""
    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> HttpResponseBase:
            with _observing(request) as saw:
                response: HttpResponseBase = await get_response(request)
                saw(response)
            return response

        return answer_async

    def answer(request: HttpRequest) -> HttpResponseBase:
        with _observing(request) as saw:
            response: HttpResponseBase = get_response(request)
            saw(response)
        return response

    return answer


@contextmanager
def _observing(request: HttpRequest) -> Iterator[Callable[[HttpResponseBase], None]]:
    began = time.monotonic()
    given = request.headers.get("X-Request-Id")
    current = given if given and is_internal(request) else uuid.uuid4().hex
    request_id.set(current)

    def saw(response: HttpResponseBase) -> None:
        response["X-Request-Id"] = current
        match = request.resolver_match
        route = (match.view_name or match.route) if match else ""
        seconds = time.monotonic() - began
        method = request.method or ""
        metrics.web_requests.labels(route, method, str(response.status_code)).inc()
        metrics.web_duration.labels(route).observe(seconds)
        if request.path in _PROBES or not route:
            return
        fields = {"method": method, "route": route, "status": response.status_code}
        if span is not None:
            span.update_name(f"{method} {route}")
            tracing.describe(span, "complete", {**fields, "request_id": current})
        log.info("request", extra={"fields": {**fields, "duration_ms": round(seconds * 1000, 1)}})

    span = None
    if request.path in _PROBES:
        yield saw
    else:
        with tracing.span(request.method or "", tracing.SpanKind.SERVER, headers=request.headers) as span:
            yield saw
