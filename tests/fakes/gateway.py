"""The real gateway as a process of its own, for tests and benchmarks."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes import ROOT
from tests.fakes.control import INTERNAL_TOKEN


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class GatewayProcess:
    """``python -m aiia_serving gateway`` in front of ``control_url``; ``settings`` are further variables.

    It can be killed and entered again, on the same port. What it prints is appended to ``log``, if there is one.
    """

    def __init__(
        self, control_url: str, manager_url: str | None = None, log: Path | None = None, **settings: str
    ) -> None:
        self._port = free_port()
        self._log = log
        self._env = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'serving'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "AIIA_PORT": str(self._port),
            "AIIA_HOST": "127.0.0.1",
            "AIIA_MANAGER_URL": manager_url or control_url,
            "AIIA_PLATFORM_URL": control_url,
            "AIIA_INTERNAL_TOKEN": INTERNAL_TOKEN,
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        with self._log.open("ab") if self._log else nullcontext() as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "aiia_serving", "gateway"], env=self._env, cwd=ROOT, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/healthz", timeout=5).close()
                return self
            except (urllib.error.URLError, ConnectionError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """Ends the process at once, as ``kill -9`` does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)
