"""One role under supervision: started, watched, started again when it dies, stopped."""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

from aiia_cli.children import Child, Children
from aiia_cli.errors import UserError
from aiia_cli.processes import Families, end
from aiia_cli.record import RoleRecord
from aiia_cli.roles import Role

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_HEALTHY_S = 60.0
_PROBE_EVERY_S = 0.1


def next_delay(delay: float, lived: float) -> float:
    """Seconds before a restart: twice those before the last one (0 for none), unless it has lived long since then."""
    return min(delay * 2, _LONGEST_DELAY_S) if delay and lived < _HEALTHY_S else _FIRST_DELAY_S


class Supervised:
    """Calls `changed` whenever `state` or `detail` changes. `settled` is set once it has been ready or has failed."""

    def __init__(self, role: Role, children: Children, families: Families, changed: Callable[[], None]) -> None:
        self.role = role
        self.state = "waiting"
        self.detail = ""
        self.restarts = 0
        self.settled = asyncio.Event()
        self._children = children
        self._families = families
        self._changed = changed
        self._child: Child | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def record(self) -> RoleRecord:
        return {
            "pid": self._child.pid if self._child and not self._child.ended.done() else None,
            "port": self.role.port,
            "state": self.state,
            "detail": self.detail,
            "restarts": self.restarts,
        }

    def start(self) -> None:
        """Start it, and keep it running until `stop`."""
        self._task = asyncio.create_task(self._keep_running())

    async def _keep_running(self) -> None:
        delay = 0.0
        while not self._stopping:
            started = time.monotonic()
            try:
                await self._run_once(started)
                why = self._child.why_ended() if self._child else ""
            except UserError as error:  # it could not even be started
                why = str(error)
            await end(self._families.of(self.role.name), grace=1)
            if self._stopping:
                return
            delay = next_delay(delay, time.monotonic() - started)
            self._enter("failed", f"{why}; starting again in {delay:g} s")
            await asyncio.sleep(delay)
            self.restarts += 1

    async def _run_once(self, started: float) -> None:
        self._child = child = self._children.start(self.role.command)
        self._families.add(self.role.name, child.pid)
        # The reason of the last crash stays in sight until the role is well again.
        self._enter("starting", self.detail.partition("; starting again")[0])
        while not child.ended.done():
            if await self.role.ready():
                if not self._stopping and not child.ended.done():
                    self._enter("ready", f"after {time.monotonic() - started:.1f} s")
                break
            await asyncio.wait({child.ended}, timeout=_PROBE_EVERY_S)
        await asyncio.wait({child.ended})

    def _enter(self, state: str, detail: str) -> None:
        self.state, self.detail = state, detail
        if state in {"ready", "failed"}:
            self.settled.set()
        self._changed()

    async def stop(self, hurry: asyncio.Event) -> None:
        """Stop it and every process that it left; kill after its grace period, or at once when `hurry` is set."""
        self._stopping = True
        if self._task is None:
            return
        self._enter("stopping", "")
        mine = self._families.of(self.role.name)
        child = self._child
        if child:
            child.send(self.role.stop_signal)
            hurried = asyncio.create_task(hurry.wait())
            either: set[asyncio.Future[Any]] = {child.ended, hurried}
            await asyncio.wait(either, timeout=self.role.grace, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            if not child.ended.done() and self.role.stop_signal == signal.SIGINT:
                child.send(signal.SIGQUIT)  # Postgres: stop at once, recover at the next start
                await asyncio.wait({child.ended}, timeout=3)
            killed = not child.ended.done()
            child.send(signal.SIGKILL)
            await asyncio.wait({child.ended})
            left = [*await end(mine, 2, hurry), *await end(self._families.of(self.role.name), 1, hurry)]
            killed = killed or bool(left)
            self._enter("stopped", "had to be killed" if killed else "")
        self._task.cancel()
        await asyncio.wait({self._task})
        self._enter("stopped", self.detail)
