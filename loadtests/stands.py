"""What chaos is made in: gateways in front of models, with every part a process that can be killed at any time."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import httpx
import psutil

from tests.fakes import ROOT, FakeUpstream
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess, free_port
from tests.serving.test_vllm import MODEL, Stack, ready
from tests.support.services import RedisServer

KEYS = {f"sk-of-{name}": name for name in ("ada", "bob", "cid", "dot")}


@dataclass
class Part:
    """One process. ``kill`` ends it at once; ``restore`` returns when it is there again, and may be what starts it."""

    kind: str
    name: str
    kill: Callable[[], object]
    restore: Callable[[], object]


class Stand(Protocol):
    """A context manager. ``gateways``: base URL by name, the names being those of their parts."""

    control: FakeControl
    gateways: dict[str, str]
    parts: list[Part]

    def left_running(self) -> int:
        """How many requests the models still work on, as soon as it is none or after some seconds."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@contextmanager
def running(module: str, *arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python module as a process, from when it has printed its first line."""
    process = subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Proxy:
    """``loadtests.proxy`` as a process, always on one port."""

    def __init__(self, targets: Sequence[int]) -> None:
        self.port = free_port()
        self._targets = targets
        self._running = ExitStack()

    def start(self) -> Self:
        self._running.enter_context(running("loadtests.proxy", self.port, *self._targets))
        return self

    def kill(self) -> None:
        self._running.close()


class GatewayStand:
    """The parts that every stand has: two gateways on one Redis, and the platform's side of them."""

    def __init__(self) -> None:
        self.control = FakeControl()
        self.redis = RedisServer(free_port())
        self.gateways: dict[str, str] = {}
        self.parts: list[Part] = []
        self._stack = ExitStack()

    def _start(self, manager_url: str) -> None:
        """After what the gateways need is there, but for the platform and Redis, which this starts."""
        self.redis.start()
        self._stack.callback(self.redis.kill)
        self.parts.append(Part("redis", "redis", self.redis.kill, self.redis.start))
        log = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / "gateways.log"
        for name in ("gateway 1", "gateway 2"):
            gateway = GatewayProcess(self.control.url, manager_url, log, REDIS_URL=self.redis.url)
            gateway.__enter__()
            self._stack.callback(gateway.kill)
            self.gateways[name] = gateway.base_url
            self.parts.append(Part("gateway", name, gateway.kill, gateway.__enter__))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class FakeStand(GatewayStand):
    """Two fake models behind a proxy, as replicas are behind Ray Serve's, and a way to the manager that can be cut."""

    MODEL, TOKENS, PACE, SLOTS = "fake", 40, 50, 8

    def __enter__(self) -> Self:
        self._stack.enter_context(self.control)
        for key, user in KEYS.items():
            self.control.add_key(key, user)
        self._replicas = [
            FakeUpstream(models=[self.MODEL], tokens=self.TOKENS, tokens_per_second=self.PACE).start() for _ in range(2)
        ]
        for number, replica in enumerate(self._replicas, 1):
            self._stack.callback(replica.kill)
            self.parts.append(Part("replica", f"replica {number}", replica.kill, replica.start))
        proxy = Proxy([replica.port for replica in self._replicas]).start()
        manager = Proxy([int(self.control.url.rsplit(":", 1)[1])]).start()
        for name, part in (("proxy", proxy), ("manager", manager)):
            self._stack.callback(part.kill)
            self.parts.append(Part(name, name, part.kill, part.start))
        self.control.set_model(self.MODEL, f"http://127.0.0.1:{proxy.port}/v1", max_in_flight=self.SLOTS)
        self._start(f"http://127.0.0.1:{manager.port}")
        return self

    def left_running(self) -> int:
        return sum(replica.wait_running(0, 10)["running"] for replica in self._replicas)


class RealStand(GatewayStand):
    """The packaged model on real Ray, through the real manager. Ray brings its replica and its HAProxy back itself."""

    MODEL = MODEL

    def __enter__(self) -> Self:
        self._stack.enter_context(self.control)
        for key, user in KEYS.items():
            self.control.add_key(key, user)
        self._models = Stack(Path(self._stack.enter_context(tempfile.TemporaryDirectory())))
        self._stack.callback(self._stop_models)
        for role in ("models", "manager"):
            self._models.start(role)
        self._wait_ready()
        self.parts += [
            Part("replica", "replica", self._kill_replica, self._wait_replica),
            Part("proxy", "proxy", self._kill_proxy, self._wait_proxy),
            Part("manager", "manager", self._kill_manager, self._start_manager),
        ]
        self._start(self._models.manager_url)
        return self

    def left_running(self) -> int:
        return 0 if self._models.wait_idle() else 1

    def _wait_ready(self) -> None:
        self._models.wait_state(ready, 400)

    def _stop_models(self) -> None:
        for role in list(self._models.roles):
            self._models.stop(role)

    def _kill_replica(self) -> None:
        self._models.replica().kill()

    def _wait_replica(self) -> None:
        # The manager hears of a death only when it has been noticed.
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            with suppress(ValueError, httpx.HTTPError):
                self._models.replica()
                if httpx.get(f"{self._serve_url}/{MODEL}/v1/models", timeout=5).status_code == 200:
                    return
            time.sleep(0.2)
        raise TimeoutError("no replica came back")

    @property
    def _serve_url(self) -> str:
        return f"http://127.0.0.1:{self._models.settings.serve_port}"

    def _kill_proxy(self) -> None:
        for process in psutil.Process(self._models.roles["models"].pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.name() == "haproxy":
                    process.kill()

    def _wait_proxy(self) -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                httpx.get(f"{self._serve_url}/-/healthz", timeout=5)
                return
            time.sleep(0.2)
        raise TimeoutError("no proxy came back")

    def _kill_manager(self) -> None:
        process = self._models.roles.pop("manager")
        process.kill()
        process.wait()

    def _start_manager(self) -> None:
        self._models.start("manager")
        self._models.wait_state(lambda models: MODEL in models, 100)
