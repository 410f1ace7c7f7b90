"""Stand-ins for the outside world, run as real processes and spoken to over real connections."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]


class FakeUpstream:
    """A fake model server in its own process (see ``tests.fakes.upstream``), as a context manager.

    ``FakeUpstream(tokens=200, tokens_per_second=50)``: keywords are the fields of ``tests.fakes.upstream.Behaviour``.
    """

    def __init__(self, port: int = 0, **settings: Any) -> None:
        self._port = port
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        """Starts the process; after ``kill`` again on the same port, as a server does that was restarted."""
        command = [sys.executable, "-m", "tests.fakes.upstream", "--exit-with-stdin", "--port", str(self._port)]
        self._process = subprocess.Popen(
            [*command, "--settings", json.dumps(self._settings)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fake upstream ended at start with {self._process.wait()}")
        self._port = int(line)
        return self

    @property
    def port(self) -> int:
        return self._port

    @property
    def base_url(self) -> str:
        """What a client takes as OpenAI's base URL."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def control(self, **settings: Any) -> dict[str, Any]:
        """Changes the behaviour of the requests from now on; answers all settings."""
        answer: dict[str, Any] = self._call("/control", settings)
        return answer

    def stats(self) -> dict[str, int]:
        """Counts: running, started, finished, disconnected, faulted."""
        answer: dict[str, int] = self._call("/stats")
        return answer

    def wait_running(self, running: int, wait: float = 5) -> dict[str, int]:
        """The counts as soon as ``running`` requests run, or after ``wait`` seconds."""
        answer: dict[str, int] = self._call(f"/stats?running={running}&wait={wait}")
        return answer

    def requests(self) -> list[dict[str, Any]]:
        """The last requests, oldest first, each with ``path``, ``headers`` and ``body``."""
        answer: list[dict[str, Any]] = self._call("/requests")
        return answer

    def kill(self) -> None:
        """Ends the process at once, as ``kill -9`` does."""
        if self._process is not None:
            self._process.kill()
            self._close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._close()

    def _close(self) -> None:
        assert self._process is not None
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", data, timeout=60) as response:
            return json.loads(response.read())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
