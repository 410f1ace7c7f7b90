"""A stand-in for the manager and the platform as the gateway sees them: model states and keys, changed by the test."""

import hashlib
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

INTERNAL_TOKEN = "internal-token-of-the-tests"


class FakeControl:
    """Serves ``GET /state`` with long polls, ``POST /internal/keys/verify`` and ``/internal/usage`` from a thread;
    a context manager."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, dict[str, Any]] = {}
        self._version = 0
        self._seen = ""
        self._changed = threading.Condition()
        self._closed = False
        self.verifications = 0
        self._usage: dict[str, dict[str, Any]] = {}
        self._forgotten = datetime.min.replace(tzinfo=UTC)
        self.usage_deliveries = 0
        control = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(*control._state(self.path, self.headers))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                take = control._take_usage if self.path == "/internal/usage" else control._verify
                self._answer(*take(json.loads(body), self.headers))

            def log_message(self, *_: Any) -> None:
                pass

            def _answer(self, status: int, value: Any) -> None:
                body = b"" if status == 204 else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # A gateway that ends leaves its long poll behind.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def set_model(self, model_id: str, base_url: str, **fields: Any) -> None:
        """Adds or changes a model; it is ``ready`` unless ``fields`` say otherwise."""
        state = {
            "id": model_id,
            "task": "chat",
            "engine": "openai",
            "title": model_id,
            "state": "ready",
            "upstream": {"base_url": base_url, "model": model_id, "api_key": None},
            "exact_continuation": True,
        }
        with self._changed:
            self._models[model_id] = {**state, **fields}
            self._bump()

    def wait_seen(self, timeout: float = 10) -> None:
        """Returns when a gateway has taken the last change: when it polls for what comes after it."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._seen == str(self._version), timeout):
                raise TimeoutError("no gateway has asked for what follows the last change")

    def remove_model(self, model_id: str) -> None:
        with self._changed:
            del self._models[model_id]
            self._bump()

    def add_key(self, key: str, user: str, refusal: dict[str, Any] | None = None) -> None:
        """``refusal``: why the key, which is good, may not use models now."""
        known: dict[str, Any] = {"key_id": f"id-of-{user}", "user_id": user}
        self._keys[hashlib.sha256(key.encode()).hexdigest()] = known | ({"refusal": refusal} if refusal else {})

    def revoke_key(self, key: str) -> None:
        del self._keys[hashlib.sha256(key.encode()).hexdigest()]

    def _bump(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _state(self, path: str, headers: Message) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {INTERNAL_TOKEN}":
            return 401, {}
        query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        with self._changed:
            self._seen = query.get("after", "")
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._closed or str(self._version) != query.get("after"), float(query.get("wait", "0"))
            )
            return 200, {"version": str(self._version), "models": list(self._models.values())}

    def _verify(self, body: dict[str, str], headers: Message) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {INTERNAL_TOKEN}":
            return 401, {}
        self.verifications += 1
        known = self._keys.get(body["key_sha256"])
        return (200, known) if known else (404, {})

    def wait_usage(self, wanted: Callable[[list[dict[str, Any]]], bool], timeout: float = 15) -> list[dict[str, Any]]:
        """The usage records, one per request id, as soon as they are as ``wanted``."""
        with self._changed:
            if not self._changed.wait_for(lambda: wanted(list(self._usage.values())), timeout):
                raise TimeoutError(f"usage is {list(self._usage.values())}")
            return list(self._usage.values())

    def forget_usage(self) -> None:
        """Of all requests that have begun, also where their records are still to come."""
        with self._changed:
            self._usage.clear()
            self._forgotten = datetime.now(UTC)

    def _take_usage(self, body: dict[str, Any], headers: Message) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {INTERNAL_TOKEN}":
            return 401, {}
        with self._changed:
            for record in body["records"]:
                if datetime.fromisoformat(record["started_at"]) >= self._forgotten:
                    # As the platform does: a record that is there is not replaced.
                    self._usage.setdefault(record["request_id"], record)
                self.usage_deliveries += 1
            self._changed.notify_all()
        return 204, None

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
