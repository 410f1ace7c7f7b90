"""The roles that make an answer, as real processes: gateway and workers, in front of a fake model server."""

import os
import subprocess
import sys
import time
import urllib.request
from types import TracebackType
from typing import Self

from django.db import connection

from tests.fakes import FakeUpstream
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess, free_port
from tests.support.plugin import ROOT
from tests.support.services import RedisServer

MODEL = "fake"
#: Of one answer.
MOST_TOKENS = 2000


class Stack:
    """A gateway, any number of workers, pages, a fake model server and Redis, on the test's own database.

    Each part can be killed and started again while the others go on. Nothing survives the context.
    """

    def __init__(self, redis: RedisServer, *, exact_continuation: bool = True, **behaviour: object) -> None:
        self.redis = redis
        self.upstream = FakeUpstream(models=[MODEL], **behaviour)
        self.log = ROOT / "stack.log"
        self.control = FakeControl()
        self.gateway = GatewayProcess(self.control.url, log=self.log, AIIA_GATEWAY_RETRY_S="1")
        self._exact = exact_continuation
        self.workers: list[subprocess.Popen[bytes]] = []
        self._web: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.upstream.start()
        self.control.__enter__()
        limits = {"max_model_len": 8192, "max_new_tokens": MOST_TOKENS, "max_in_flight": 64}
        self.control.set_model(MODEL, self.upstream.base_url, exact_continuation=self._exact, **limits)
        self.gateway.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for process in [*self.workers, *([self._web] if self._web else [])]:
            process.kill()
            process.wait()
        self.gateway.kill()
        self.upstream.kill()
        self.control.__exit__(kind, value, tb)
        # pytest shows it when the test has failed.
        print(self.log.read_text()[-6000:])
        self.log.unlink()

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        worker = self._start("aiia_platform", "worker", **environment)
        self.workers.append(worker)
        return worker

    def start_web(self, **environment: str) -> str:
        """Starts the pages, without a gateway of their own, and returns their address once they answer."""
        port = free_port()
        self._web = self._start("aiia_web", AIIA_PORT=str(port), **environment)
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30).close()
            except OSError:
                assert self._web.poll() is None, "the pages ended at once"
                time.sleep(0.05)  # Its port is not open yet.
            else:
                return f"http://127.0.0.1:{port}"

    def _start(self, *module: str, **environment: str) -> subprocess.Popen[bytes]:
        name = connection.settings_dict["NAME"]
        env = {
            **os.environ,
            # The test's database instead of the server's own.
            "DATABASE_URL": os.environ["DATABASE_URL"].replace("/postgres?", f"/{name}?"),
            "REDIS_URL": self.redis.url,
            "AIIA_GATEWAY_URL": self.gateway.base_url,
            "AIIA_PATIENCE": "5",
            **environment,
        }
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", *module], env=env, stdout=log, stderr=log)
