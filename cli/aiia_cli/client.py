"""The command line as a client of the REST API, of the instance on this machine or of another one."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from aiia_cli import record
from aiia_cli.datadir import DataDir
from aiia_cli.errors import UserError

_TIMEOUT_S = 30.0
#: What is answered by an instance that is starting anew, and after how many seconds it is asked again.
_AWAY = {0, 502, 503}
_AGAIN_S = 1.0


class NotRunning(UserError):
    """No instance runs on the data directory, and no other was named."""


class Refused(UserError):
    """The API answered with a problem. `status`: of HTTP, 0 when nothing answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Client:
    """`address`: where the page is. `token`: an API key, or the internal token of the instance."""

    address: str
    token: str

    def get(self, path: str, timeout: float = _TIMEOUT_S) -> Any:
        """The JSON at this path. Raises `Refused`."""
        return self.send("GET", path, timeout=timeout)

    def send(self, method: str, path: str, body: object = None, timeout: float = _TIMEOUT_S) -> Any:
        """The answer as JSON, None without content. Raises `Refused` with what the API says."""
        data = None if body is None else json.dumps(body).encode()
        with self._open(method, path, data, {"Accept": "application/json"}, timeout) as response:
            content: bytes = response.read()
        try:
            return json.loads(content) if content else None
        except ValueError:
            raise Refused(0, f"{self.address} is not the address of an aiia: it answers something else.") from None

    def events(self, path: str, after: int) -> Iterator[dict[str, Any]]:
        """Server-sent events after a number, as their data, for ever. A line that breaks is taken up where it was."""
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            try:
                with self._open("GET", path, None, headers, _TIMEOUT_S) as response:
                    for line in response:
                        if line.startswith(b"data: "):
                            event: dict[str, Any] = json.loads(line[6:])
                            after = event["n"]
                            yield event
            except Refused as refused:
                if refused.status not in _AWAY:
                    raise
            except (OSError, HTTPException, ValueError):
                pass  # cut off; the next connection goes on after the last event
            time.sleep(_AGAIN_S)

    def _open(self, method: str, path: str, data: bytes | None, headers: dict[str, str], timeout: float) -> Any:
        headers |= {"Authorization": f"Bearer {self.token}", "User-Agent": "aiia"}
        if method in {"POST", "PUT"}:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.address + quote(path, safe="/?=&"), data, headers, method=method)  # noqa: S310
        try:
            return urllib.request.urlopen(request, timeout=timeout)  # noqa: S310  # the user says which address
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, _why(error.code, error.read())) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Refused(0, f"{self.address} does not answer: {reason}") from None


def connect(data: DataDir, url: str) -> Client:
    """The client of the instance at `url` with the key in `AIIA_API_KEY`, or of the one on this data directory.

    Raises `NotRunning` when neither is there, `UserError` for a `url` without a key.
    """
    if url:
        key = os.environ.get("AIIA_API_KEY", "")
        if not key:
            raise UserError(f"For {url} an administrator's API key is wanted: AIIA_API_KEY=sk-…")
        return Client(url.rstrip("/").removesuffix("/v1"), key)
    current = record.running(data)
    if current is None:
        raise NotRunning(
            f"aiia is not running on {data.path}. Start it with: aiia up\n"
            "or name another instance: --url ADDRESS, with an administrator's key in AIIA_API_KEY"
        )
    return Client(current["address"], (data.secrets / "internal-token").read_text().strip())


def _why(status: int, content: bytes) -> str:
    try:
        problem = json.loads(content)
        # Of a refusal the detail says it all; of what is away, the title says what that is.
        lines = [f"{problem['title']}. {problem['detail']}" if status >= 500 else str(problem["detail"])]
        errors = [error for error in problem.get("errors", []) if error["message"] != problem["detail"]]
        lines += [f"  {error['field']}: {error['message']}" for error in errors]
    except (ValueError, KeyError, TypeError):
        return f"The answer was {status}."
    return "\n".join(lines)
