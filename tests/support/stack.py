"""The roles that make an answer, as real processes: gateway and workers, in front of a fake model server."""

import os
import subprocess
import sys
from types import TracebackType
from typing import Self

from django.db import connection

from tests.fakes import FakeUpstream
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.support.plugin import ROOT
from tests.support.services import RedisServer

MODEL = "fake"


class Stack:
    """A gateway, any number of workers, a fake model server and Redis, on the test's own database.

    Each part can be killed and started again while the others go on. Nothing survives the context.
    """

    def __init__(self, redis: RedisServer, *, exact_continuation: bool = True, **behaviour: object) -> None:
        self.redis = redis
        self.upstream = FakeUpstream(models=[MODEL], **behaviour)
        self.log = ROOT / "stack.log"
        self._control = FakeControl()
        self.gateway = GatewayProcess(self._control.url, log=self.log, AIIA_GATEWAY_RETRY_S="1")
        self._exact = exact_continuation
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.upstream.start()
        self._control.__enter__()
        limits = {"max_model_len": 8192, "max_in_flight": 64}
        self._control.set_model(MODEL, self.upstream.base_url, exact_continuation=self._exact, **limits)
        self.gateway.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.gateway.kill()
        self.upstream.kill()
        self._control.__exit__(kind, value, tb)
        # pytest shows it when the test has failed.
        print(self.log.read_text()[-6000:])
        self.log.unlink()

    def start_worker(self) -> subprocess.Popen[bytes]:
        name = connection.settings_dict["NAME"]
        env = {
            **os.environ,
            # The test's database instead of the server's own.
            "DATABASE_URL": os.environ["DATABASE_URL"].replace("/postgres?", f"/{name}?"),
            "REDIS_URL": self.redis.url,
            "AIIA_GATEWAY_URL": self.gateway.base_url,
            "AIIA_PATIENCE": "5",
        }
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "aiia_platform", "worker"], env=env, stdout=log, stderr=log
            )
        self.workers.append(worker)
        return worker
