"""A gateway that says of its queues what a test wants it to say."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.fakes.control import INTERNAL_TOKEN


class FakeQueues:
    """`GET /v1/queue`, for the holder of the internal token."""

    def __init__(self) -> None:
        queues = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.headers["Authorization"] == f"Bearer {INTERNAL_TOKEN}" and self.path == "/v1/queue"
                self.send_response(200 if allowed else 401)
                self.end_headers()
                self.wfile.write(json.dumps({"models": queues.models, "requests": []}).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.models: dict[str, dict[str, float | None]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def set(
        self, model: str, *, waiting: int = 0, running: int = 0, slots: int = 0, work_s: float | None = None
    ) -> None:
        load = {"waiting": waiting, "running": running, "slots": slots, "work_s": work_s}
        self.models = {**self.models, model: load}

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
