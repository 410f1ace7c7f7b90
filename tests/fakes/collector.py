"""A collector of OpenTelemetry's traces: what is sent over OTLP/HTTP, as the protocol's own messages."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class CollectedSpan:
    """Ids in hex, ``parent`` empty for a root; ``service`` is the process's ``service.name``."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, str]
    failed: bool


class Collector:
    """Listens on ``POST /v1/traces``; a context manager."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self._spans: list[CollectedSpan] = []
        self._arrived = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector._take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """What goes into ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def wait(self, enough: Callable[[list[CollectedSpan]], bool], timeout: float = 30) -> list[CollectedSpan]:
        """The spans so far, as soon as they are ``enough``."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: enough(self._spans), timeout):
                raise TimeoutError(f"only these came: {self._spans}")
            return list(self._spans)

    def _take(self, body: bytes) -> None:
        spans = [
            CollectedSpan(
                service=next(a.value.string_value for a in sent.resource.attributes if a.key == "service.name"),
                name=span.name,
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                attributes={a.key: str(a.value) for a in span.attributes},
                failed=span.status.code == span.status.STATUS_CODE_ERROR,
            )
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in sent.scope_spans
            for span in scope.spans
        ]
        with self._arrived:
            self.raw.append(body)
            self._spans += spans
            self._arrived.notify_all()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
