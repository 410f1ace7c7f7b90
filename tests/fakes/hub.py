"""A Hugging Face hub of the test's own: the API and the files of a few repositories, as the hub gives them."""

import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """``token`` is the one that may read it, None for everyone; ``claims`` are sizes that the API gives instead."""

    files: dict[str, bytes]
    token: str | None = None
    gated: bool = False
    claims: dict[str, int] = field(default_factory=dict)
    wrong_sums: bool = False


class FakeHub:
    """Serves ``repositories``; ``requests`` are the paths of file requests with their ``Range`` header.

    While ``hold`` is not set, files are sent up to their first half only, and ``held`` says that one has got there.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.held = threading.Event()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        parts = request.path.partition("?")[0].strip("/").split("/")
        described = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if described else parts[:2])
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        repository = self.repositories.get(name)
        if token.startswith("wrong"):
            self._refuse(request, 401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.token and token != repository.token and not repository.gated):
            # Like the hub, for a private repository as for none at all.
            self._refuse(request, 401 if not token else 404, "RepoNotFound", "Repository not found")
        elif repository.gated and token != repository.token and not described:
            self._refuse(request, 403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        elif described:
            self._send(request, 200, json.dumps(self._description(name, repository)).encode(), {})
        else:
            self._file(request, repository, "/".join(parts[4:]))

    def _description(self, name: str, repository: Repository) -> dict[str, Any]:
        siblings = []
        for path, content in repository.files.items():
            size = repository.claims.get(path, len(content))
            sibling: dict[str, Any] = {"rfilename": path, "size": size, "blobId": hashlib.sha1(content).hexdigest()}
            if path.endswith(".safetensors"):
                digest = "0" * 64 if repository.wrong_sums else hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": digest, "size": size, "pointerSize": 134}
            siblings.append(sibling)
        return {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings}

    def _file(self, request: http.server.BaseHTTPRequestHandler, repository: Repository, path: str) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((path, wanted))
        content = repository.files[path]
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(request, 206 if wanted else 200, content[start:], headers)

    def _send(
        self, request: http.server.BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        half = len(body) // 2
        try:
            request.wfile.write(body[:half])
            request.wfile.flush()
            if "ETag" in headers and not self.hold.is_set():
                self.held.set()
                self.hold.wait()
            request.wfile.write(body[half:])
        except OSError:
            request.close_connection = True

    def _refuse(self, request: http.server.BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
        self._send(
            request, status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message}
        )
