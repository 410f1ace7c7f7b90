"""A whole aiia as its owner runs it: `aiia up` in a process of its own, for tests from outside."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from aiia_cli import record
from aiia_cli.datadir import DataDir
from aiia_cli.ports import free_ports
from aiia_cli.processes import is_alive
from aiia_cli.record import InstanceRecord

_POLL_S = 0.05
_SETTINGS_OF_TESTS = ("DATABASE_URL", "REDIS_URL", "OPENAI_BASE_URL", "DJANGO_SETTINGS_MODULE")


class Instance:
    """`aiia up` on a data directory. As a context manager it is started at entry and stopped at exit.

    `environment` goes on top of ours, from which the settings of this test run are removed.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        no_models: bool = False,
        openai_base_url: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data = DataDir(data_dir)
        self.port = port or free_ports(1)[0]
        self.arguments = ["--data-dir", str(data_dir), "--port", str(self.port)]
        self.arguments += ["--no-models"] if no_models else []
        self.arguments += ["--openai-base-url", openai_base_url] if openai_base_url else []
        self.environment = instance_environment() | dict(environment or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.stop()
        finally:
            if kind is not None:
                print(self.log_tail())  # pytest shows it when the test has failed

    def start(self) -> None:
        """Start it and return at once."""
        self.data.path.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command("up", *self.arguments),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> Path:
        """What `aiia up` printed."""
        return self.data.path / "up-output.txt"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def record(self) -> InstanceRecord:
        """What the instance says about itself now. Raises `AssertionError` if it does not run."""
        current = record.running(self.data)
        assert current is not None, f"aiia does not run\n{self.log_tail()}"
        return current

    @property
    def database_url(self) -> str:
        return self.record["database_url"]

    @property
    def redis_url(self) -> str:
        return self.record["redis_url"]

    def pid(self, role: str) -> int:
        """The process id of a running role."""
        pid = self.record["roles"][role]["pid"]
        assert pid is not None, f"{role} does not run\n{self.log_tail()}"
        return pid

    def restarts(self, role: str) -> int:
        """How often the role was started again after a crash."""
        return self.record["roles"][role]["restarts"]

    def state(self, role: str) -> str:
        """`waiting`, `starting`, `ready`, `failed` …; '' before the instance knows the role."""
        current = record.running(self.data)
        return current["roles"][role]["state"] if current and role in current["roles"] else ""

    def model_state(self, model: str) -> str:
        """`starting`, `ready` …; '' before the instance knows the model."""
        current = record.running(self.data)
        states = {found["id"]: found["state"] for found in (current["models"] if current else [])}
        return states.get(model, "")

    def wait_ready(self, *roles: str, models: tuple[str, ...] = (), timeout: float = 60) -> None:
        """Wait until these roles (all of them if none is named) and models are ready. `timeout` in seconds."""

        def ready() -> bool:
            current = record.running(self.data)
            names = roles or tuple(current["roles"] if current else ())
            return (
                bool(names)
                and all(self.state(name) == "ready" for name in names)
                and all(self.model_state(model) == "ready" for model in models)
            )

        self.wait_until(ready, f"{roles or 'all roles'} {models or ''} ready", timeout)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
        """Wait for something to become true while the instance runs."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process is not None, "start() first"
            assert self.process.poll() is None, f"aiia up ended while waiting for {what}\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}\n{self.log_tail()}"
            self.processes()
            time.sleep(_POLL_S)

    def kill(self, role: str) -> int:
        """SIGKILL a role's process. Returns the process id it had; see `wait_restarted`."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, role: str, killed: int, timeout: float = 30) -> None:
        """Wait until a role that was killed is ready again in a new process."""

        def restarted() -> bool:
            now = self.record["roles"][role]
            return now["pid"] not in {None, killed} and now["state"] == "ready"

        self.wait_until(restarted, f"{role} ready again", timeout)

    def processes(self) -> list[psutil.Process]:
        """Every process of the instance that is or was there, `aiia up` itself included."""
        if self.process and self.process.poll() is None:
            up = psutil.Process(self.process.pid)
            for process in [up, *up.children(recursive=True)]:
                self._seen[process.pid] = process
        return list(self._seen.values())

    def left_over(self) -> list[psutil.Process]:
        """Those of `processes` that still run. A zombie does not."""
        return [process for process in self.processes() if is_alive(process)]

    def get(self, path: str, timeout: float = 10) -> bytes:
        """The body of GET on the page's address. Raises `OSError`, `urllib.error.HTTPError` among them."""
        with urllib.request.urlopen(self.address + path, timeout=timeout) as response:
            body: bytes = response.read()
            return body

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 90) -> int | None:
        """Signal it to stop and wait. Its exit code; None if it was not started.

        Fails if it left a process running, after ending that.
        """
        if self.process is None:
            return None
        self.processes()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(timeout)
        finally:
            left = self.left_over()
            names = [f"{process.pid} {process.name()}" for process in left if process.is_running()]
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(10)
        assert not names, f"aiia up left running: {names}"
        return code

    def log_tail(self, lines: int = 15) -> str:
        """What `aiia up` printed, and the end of each role's log."""
        files = [self.output, *sorted(self.data.logs.glob("*.log"))]
        parts = [f"--- {file.name}\n{_tail(file, lines)}" for file in files if file.exists()]
        return "\n".join(parts)


def command(*arguments: str) -> list[str]:
    """The `aiia` command in the Python that runs the tests."""
    return [sys.executable, "-P", "-m", "aiia_cli", *arguments]


def instance_environment() -> dict[str, str]:
    """Our environment without what configures the roles."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _SETTINGS_OF_TESTS and (not name.startswith("AIIA_") or name == "AIIA_MODEL_CACHE")
    }


def _tail(file: Path, lines: int) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
