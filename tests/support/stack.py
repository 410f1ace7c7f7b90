"""The roles that make an answer, as real processes: gateway and workers, in front of a fake model server."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import Self

from django.db import connection

from tests.fakes import FakeUpstream
from tests.fakes.manager import FakeManager
from tests.support.plugin import ROOT, free_port
from tests.support.services import RedisServer

MODEL = "fake"
TOKEN = os.environ["AIIA_INTERNAL_TOKEN"]


class Stack:
    """A gateway, any number of workers, a fake model server and Redis, on the test's own database.

    Each part can be killed and started again while the others go on. Nothing survives `close`.
    """

    def __init__(self, redis: RedisServer, *, exact_continuation: bool = True, **behaviour: object) -> None:
        self.redis = redis
        self.upstream = FakeUpstream(models=[MODEL], **behaviour)
        self._exact = exact_continuation
        self._port = free_port()
        self._manager: FakeManager | None = None
        self._gateway: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.log = ROOT / "stack.log"

    def __enter__(self) -> Self:
        self.upstream.start()
        self._manager = FakeManager(
            {
                "id": MODEL,
                "task": "chat",
                "engine": "vllm",
                "title": "Fake",
                "state": "ready",
                "upstream": {"base_url": self.upstream.base_url, "model": MODEL},
                "max_model_len": 8192,
                "max_in_flight": 64,
                "exact_continuation": self._exact,
            },
            token=TOKEN,
        ).start()
        self.start_gateway()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for process in [*self.workers, *([self._gateway] if self._gateway else [])]:
            process.kill()
            process.wait()
        self.upstream.kill()
        if self._manager:
            self._manager.stop()
        # pytest shows it when the test has failed.
        print(self.log.read_text()[-6000:])
        self.log.unlink()

    @property
    def env(self) -> dict[str, str]:
        """The environment of the roles: the test's database instead of the server's own."""
        assert self._manager is not None
        name = connection.settings_dict["NAME"]
        return {
            **os.environ,
            "DATABASE_URL": os.environ["DATABASE_URL"].replace("/postgres?", f"/{name}?"),
            "REDIS_URL": self.redis.url,
            "AIIA_GATEWAY_URL": self.gateway_url,
            "AIIA_MANAGER_URL": self._manager.url,
            "AIIA_PLATFORM_URL": "http://127.0.0.1:9",
            "AIIA_HOST": "127.0.0.1",
            "AIIA_PORT": str(self._port),
            "AIIA_PATIENCE": "5",
            "AIIA_GATEWAY_RETRY_S": "1",
        }

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start_gateway(self) -> None:
        self._gateway = self._spawn("-m", "aiia_serving", "gateway")
        request = urllib.request.Request(f"{self.gateway_url}/models", headers={"Authorization": f"Bearer {TOKEN}"})
        self._until(lambda: _answers(request), self._gateway)

    def kill_gateway(self) -> None:
        assert self._gateway is not None
        self._gateway.kill()
        self._gateway.wait()

    def start_worker(self) -> subprocess.Popen[bytes]:
        worker = self._spawn("-m", "aiia_platform", "worker")
        self.workers.append(worker)
        return worker

    def _spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, *arguments], env=self.env, stdout=log, stderr=log)

    def _until(self, ready: Callable[[], bool], process: subprocess.Popen[bytes], wait: float = 30) -> None:
        deadline = time.monotonic() + wait
        while not ready():
            assert process.poll() is None, f"ended with {process.returncode}:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"not ready:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)


def _answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
