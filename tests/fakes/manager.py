"""A stand-in for the manager as the platform sees it: states, events, the catalogue and the verbs, over real HTTP."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.control import INTERNAL_TOKEN

#: Events that it remembers.
RING = 100

Answer = tuple[int, Any]

#: Where a replica has an image model.
HELD: dict[str, Any] = {
    "replica": "abc",
    "place": "device",
    "bytes": 5_100_000_000,
    "device": "cuda",
    "precision": "bfloat16",
    "quantization": "fp8",
    "offload": "encoders",
    "why": "5.1 GB of weights and 1.8 GB for an image fit the 16 GB of the GPU",
    "problem": None,
    "load_s": 41.0,
    "move_s": None,
}


class FakeManager:
    """Follows its orders at once: a model that is loaded is ready, one that is unloaded is cold. A context manager.

    `port`: where it listens; one that is used again is the same manager, started anew.
    """

    def __init__(self, port: int = 0) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.catalogue: dict[str, dict[str, Any]] = {}
        #: The documents of the owner, which may be removed.
        self.owned: dict[str, Any] = {}
        #: What was asked for, such as `POST /models/qwen3-8b/load`, with its body.
        self.calls: list[tuple[str, Any]] = []
        #: A model that is given an order stays as it is.
        self.keep_state = False
        self.has_catalogue = True
        self._asked = 0
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._closed = False
        manager = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                if self.headers.get("Authorization") != f"Bearer {INTERNAL_TOKEN}":
                    status, value = _problem(401, "Unauthorized", "the internal token is wanted")
                else:
                    parts = [unquote(part) for part in url.path.strip("/").split("/")]
                    status, value = manager._answer(self.command, parts, query, body, self.headers["Content-Type"])
                content = b"" if value is None else json.dumps(value).encode()
                kind = "problem+json" if status >= 400 else "json"
                self.send_response(status)
                self.send_header("Content-Type", f"application/{kind}")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  # the names are the base's

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        # Who stops following leaves a long poll behind.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def set_model(self, model_id: str, state: str = "ready", **fields: Any) -> None:
        """Adds or changes a model, which is an event when its state is another."""
        with self._changed:
            known = self.models.get(model_id, {})
            previous = known.get("state")
            self.models[model_id] = {
                "id": model_id,
                "task": "chat",
                "engine": "vllm",
                "title": model_id,
                "reason": None,
                "progress": None,
                "eta_s": None,
                "upstream": {"base_url": "http://127.0.0.1:1/v1", "model": model_id, "api_key": "secret-of-the-model"},
                "max_model_len": 8192,
                "max_in_flight": 32,
                "exact_continuation": True,
                "capabilities": ["chat"],
                "base": None,
                "starts_on_demand": True,
                "replicas": 1 if state == "ready" else 0,
                "min_replicas": 0,
                "max_replicas": 1,
                **known,
                "state": state,
                **fields,
            }
            if state != previous:
                self._tell(model_id, state, previous, fields.get("reason"))

    def add_to_catalogue(self, name: str, **fields: Any) -> None:
        self.catalogue[name] = {
            "id": name,
            "title": name,
            "task": "chat",
            "source": f"vendor/{name}",
            "license": "Apache-2.0",
            "parameters": 8_000_000_000,
            "fits": True,
            "reason": None,
            "precision": "bfloat16",
            "memory_bytes": 18 * 1024**3,
            "download_bytes": 16 * 1024**3,
            "max_model_len": 32768,
            "added": False,
            "gated": False,
            **fields,
        }

    def wait_call(self, call: str, timeout: float = 20) -> None:
        """Returns when this was asked for."""
        with self._changed:
            if not self._changed.wait_for(lambda: any(made == call for made, _ in self.calls), timeout):
                raise TimeoutError(f"nobody has asked for {call}")

    def wait_asked(self, timeout: float = 20) -> None:
        """Returns when somebody has read the states once more after this was called, and has the answer."""
        with self._changed:
            # The first may have been answered with what was before.
            enough = self._asked + 2
            if not self._changed.wait_for(lambda: self._asked >= enough, timeout):
                raise TimeoutError("nobody reads the states")

    def _tell(self, model_id: str, state: str | None, previous: str | None, reason: str | None = None) -> None:
        number = self._events[-1]["n"] + 1 if self._events else 1
        event = {
            "n": number,
            "at": time.time(),
            "model": model_id,
            "state": state,
            "previous": previous,
            "reason": reason,
        }
        self._events = [*self._events[-RING + 1 :], event]
        self._changed.notify_all()

    def _answer(self, method: str, parts: list[str], query: dict[str, str], body: bytes, kind: str) -> Answer:
        if method != "GET":
            text = body.decode()
            given = json.loads(text) if text and "json" in kind else text
            with self._changed:
                self.calls.append((f"{method} /{'/'.join(parts)}", given))
                self._changed.notify_all()
        match method, parts:
            case "GET", ["state"]:
                with self._changed:
                    self._asked += 1
                    self._changed.notify_all()
                return 200, {"version": str(len(self._events)), "models": [*self.models.values()]}
            case "GET", ["events"]:
                return 200, self._wait(int(query.get("after", "0")), float(query.get("wait", "0")))
            case "GET", ["catalogue"] if self.has_catalogue:
                machine = {"gpus": [], "memory_bytes": 24 * 1024**3, "disk_free_bytes": 90 * 1024**3, "cpu_count": 2}
                return 200, {"machine": machine, "models": [*self.catalogue.values()]}
            case "POST", ["catalogue", name]:
                return self._add(name)
            case "PUT", ["models", name]:
                return self._put(name, given)
            case "DELETE", ["models", name]:
                return self._remove(name)
            case "POST", ["models", name, verb]:
                return self._order(name, verb, given)
        return _problem(404, "Not found", "There is no such address.")

    def _wait(self, after: int, seconds: float) -> dict[str, Any]:
        with self._changed:
            last = self._events[-1]["n"] if self._events else 0
            if after > last:
                after = 0
            self._changed.wait_for(
                lambda: self._closed or bool(self._events and self._events[-1]["n"] > after), seconds
            )
            last = self._events[-1]["n"] if self._events else 0
            return {"last": last, "events": [event for event in self._events if event["n"] > after]}

    def _order(self, name: str, verb: str, given: Any) -> Answer:
        if name not in self.models:
            return _problem(404, "Not found", f"There is no model {name}.")
        if self.models[name]["engine"] == "openai":
            return _problem(409, "Not possible", f"{name} runs elsewhere, so that it cannot be changed from here.")
        if verb == "scale":
            low, high = given.get("min_replicas"), given.get("max_replicas")
            if not isinstance(low, int) or not isinstance(high, int) or not 0 <= low <= high:
                errors = [{"field": "min_replicas", "message": "must not be greater than max_replicas"}]
                return _problem(422, "Refused", "The numbers of replicas are wrong.", errors=errors)
            self.set_model(name, self.models[name]["state"], min_replicas=low, max_replicas=high)
        elif not self.keep_state:
            state, replicas = {"load": ("ready", 1), "unload": ("cold", 0), "pull": ("cold", 0)}[verb]
            self.set_model(name, state, replicas=replicas)
        return 202, None

    def _add(self, name: str) -> Answer:
        if name not in self.catalogue:
            return _problem(404, "Not found", f"There is no ready document {name}.")
        if self.catalogue[name]["added"]:
            return _problem(409, "There already", f"{name} is among your models.")
        self.catalogue[name]["added"] = True
        self.owned[name] = {}
        self.set_model(name, "downloading", progress=0.0)
        return 201, None

    def _put(self, name: str, document: Any) -> Answer:
        if isinstance(document, str) and "kind: Model" not in document:
            return _problem(
                422, "Refused", "The document has mistakes.", errors=[{"field": "kind", "message": "wanted"}]
            )
        self.owned[name] = document
        self.set_model(name, "registered")
        return 204, None

    def _remove(self, name: str) -> Answer:
        if name not in self.models:
            return _problem(404, "Not found", f"There is no model {name}.")
        if name not in self.owned:
            return _problem(409, "Not possible", f"{name} is packaged with aiia.")
        with self._changed:
            del self.owned[name], self.models[name]
            if name in self.catalogue:
                self.catalogue[name]["added"] = False
            self._tell(name, None, "ready")
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


def _problem(status: int, title: str, detail: str, **more: Any) -> Answer:
    return status, {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
