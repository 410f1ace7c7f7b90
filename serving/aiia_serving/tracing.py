"""Traces by OpenTelemetry, if ``OTEL_EXPORTER_OTLP_ENDPOINT`` says where to send them.

Without it spans cost microseconds, nothing is sent, and a caller's trace still goes on to the model's server.
Attributes hold names, counts and times; prompts and answers never.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from aiia_serving.logs import request_id

__all__ = ["Span", "SpanKind", "configure_tracing", "describe", "ended", "headers", "span", "traces_endpoint"]

_tracer = trace.get_tracer("aiia.serving")


def traces_endpoint() -> str | None:
    """Where spans are sent, as a whole address; None for nowhere."""
    if own := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return own
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return f"{base.rstrip('/')}/v1/traces" if base else None


def configure_tracing(service: str) -> None:
    """Starts sending this process's spans as those of ``service``. Called once, before the first span."""
    if (endpoint := traces_endpoint()) is None:
        return
    # Half a second of imports, for those who want it.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    trace.set_tracer_provider(provider)


@contextmanager
def span(
    name: str, kind: SpanKind = SpanKind.INTERNAL, *, headers: Mapping[str, str] | None = None, **attributes: str
) -> Iterator[Span]:
    """A span around what is done inside; its parent is the current one, or the one that a caller's ``headers`` name.

    An exception marks it as failed by its type alone, for the text may quote a prompt.
    """
    context = None if headers is None else propagate.extract(headers)
    with _tracer.start_as_current_span(
        name, context, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def describe(span: Span, outcome: str, fields: Mapping[str, Any]) -> None:
    """Says on a request's span what the log says of it."""
    if span.is_recording():
        span.set_attributes({f"aiia.{name}": value for name, value in fields.items()} | {"aiia.outcome": outcome})
        if fields["status"] >= 500:
            span.set_status(Status(StatusCode.ERROR, str(fields.get("error", ""))))


def ended(outcome: str, **fields: float) -> None:
    """Says on the current span how its work ended, and what it took; ``failed`` marks the span."""
    current = trace.get_current_span()
    if current.is_recording():
        current.set_attributes({f"aiia.{name}": value for name, value in fields.items()} | {"aiia.outcome": outcome})
        if outcome == "failed":
            current.set_status(Status(StatusCode.ERROR))


def headers() -> dict[str, str]:
    """What tells the next process on the way which request and which span it works for."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {"X-Request-Id": found, **carrier} if (found := request_id.get()) else carrier
