"""A manager that reports the models it is told to, over the real interface (docs/developers/architecture.md)."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


class FakeManager:
    """Serves ``GET /state`` with long polls from a thread. ``update`` changes the fields of a model, or adds one."""

    def __init__(self, *models: dict[str, Any], token: str) -> None:
        self._models = {model["id"]: model for model in models}
        self._token = token
        self._version = 1
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> Self:
        manager = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # the standard library's name
                if self.headers.get("Authorization") != f"Bearer {manager._token}":
                    self._answer(401, {"detail": "internal token wanted"})
                    return
                query = parse_qs(urlsplit(self.path).query)
                after, wait = query.get("after", [""])[0], float(query.get("wait", ["0"])[0])
                self._answer(200, manager._report(after, wait))

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                """A gateway that was killed in the middle of a poll is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def update(self, model: str, **fields: Any) -> None:
        with self._changed:
            self._models[model] = {**self._models.get(model, {"id": model}), **fields}
            self._version += 1
            self._changed.notify_all()

    def stop(self) -> None:
        assert self._server is not None
        with self._changed:
            self._version += 1
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _report(self, after: str, wait: float) -> dict[str, Any]:
        with self._changed:
            self._changed.wait_for(lambda: str(self._version) != after, wait)
            return {"version": str(self._version), "models": list(self._models.values())}
