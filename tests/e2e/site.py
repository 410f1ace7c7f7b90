"""The real web and worker processes in front of a scripted gateway."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Self

from tests.e2e.gateway import ScriptedGateway
from tests.support.plugin import ROOT, free_port


class Site:
    """aiia's pages at `url`. Web and worker can be killed and started again."""

    def __init__(self, database_url: str, redis_url: str, *, debug: bool = False) -> None:
        self.gateway = ScriptedGateway()
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._databases = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "AIIA_DEBUG": "1" if debug else "0"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log = ROOT / "site.log"

    def __enter__(self) -> Self:
        self.gateway.start()
        self.run("migrate", "--verbosity=0")
        self.run("collectstatic", "--noinput", "--verbosity=0")
        self.start_web()
        self.start_worker()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for role in list(self._processes):
            self.kill(role)
        self.gateway.stop()

    def run(self, *command: str, stdin: str = "") -> None:
        """A management command."""
        argv = [sys.executable, "-m", "aiia_platform", *command]
        subprocess.run(argv, env=self._env, input=stdin, text=True, check=True)

    def start_web(self) -> None:
        self._start("web", "aiia_web")
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, self.log.read_text()[-3000:]
                time.sleep(0.05)

    def start_worker(self, **environment: str) -> None:
        self._start("worker", "aiia_platform", "worker", **environment)

    def kill(self, role: str) -> None:
        """`kill -9` one of `web`, `worker`."""
        process = self._processes.pop(role)
        process.kill()
        process.wait()

    @property
    def _env(self) -> dict[str, str]:
        own = {"AIIA_GATEWAY_URL": self.gateway.url, "AIIA_HOST": "127.0.0.1", "AIIA_PORT": str(self._port)}
        # Each test registers somebody.
        return {**os.environ, **self._databases, **own, "AIIA_SIGNUP_RATE": "1000/m/ip"}

    def _start(self, role: str, *module: str, **environment: str) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", *module]
            self._processes[role] = subprocess.Popen(command, env=self._env | environment, stdout=log, stderr=log)
