"""The manager's side of the driver process (see ``driver``): started again as often as it ends."""

import asyncio
import contextlib
import itertools
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from aiia_serving.engines.environment import RaySettings
from aiia_serving.manager.driver import AppReport

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class CallError(Exception):
    """A method of a replica failed, or there is nobody to call it."""


class Hand:
    """Keeps Serve's applications equal to what ``wanted`` returns, for as long as ``run`` runs.

    ``reports`` has Serve's word on each application, or is None while Ray is away. ``changed`` is called after every
    change of it.
    """

    def __init__(
        self,
        settings: RaySettings,
        wanted: Callable[[], list[dict[str, Any]]],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._wanted = wanted
        self._changed = changed
        self._look = asyncio.Event()
        self._input: asyncio.StreamWriter | None = None
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[None]] = {}
        self.reports: dict[str, AppReport] | None = None

    def look(self) -> None:
        """What is wanted may have changed."""
        self._look.set()

    async def call(self, application: str, method: str) -> None:
        """Calls a method of the model's one replica and waits for its end. Raises ``CallError``."""
        if self._input is None:
            raise CallError("Ray is away")
        number = next(self._numbers)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        self._send({"call": {"id": number, "application": application, "method": method}})
        try:
            await answer
        finally:
            self._calls.pop(number, None)

    async def run(self) -> None:
        while True:
            try:
                await self._once()
            except (OSError, ValueError) as error:
                log.warning("driver failed", extra={"fields": {"error": str(error)}})
            # While Ray is away nothing runs, whatever was reported last.
            self.reports = None
            await self._changed()
            await asyncio.sleep(_RETRY_S)

    async def _once(self) -> None:
        if not await self._ray_listens():
            return
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aiia_serving.manager.driver",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=16 * 1024 * 1024,
        )
        if process.stdin is None or process.stdout is None:
            raise OSError("no pipes to the driver")
        self._input = process.stdin
        reading = asyncio.create_task(self._read(process.stdout))
        told: list[dict[str, Any]] | None = None
        try:
            while not reading.done():
                self._look.clear()
                wanted = self._wanted()
                if wanted != told:
                    self._send({"applications": wanted})
                    await process.stdin.drain()
                    told = wanted
                looking = asyncio.create_task(self._look.wait())
                await asyncio.wait({reading, looking}, return_when=asyncio.FIRST_COMPLETED)
                looking.cancel()
        finally:
            self._input = None
            for answer in self._calls.values():
                if not answer.done():
                    answer.set_exception(CallError("the driver ended"))
            reading.cancel()
            process.stdin.close()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    def _send(self, command: dict[str, Any]) -> None:
        if self._input is not None:
            self._input.write(json.dumps(command).encode() + b"\n")

    async def _read(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            message = json.loads(line)
            if "answer" in message:
                self._answered(**message["answer"])
            else:
                self.reports = message["applications"]
                await self._changed()

    def _answered(self, id: int, error: str | None) -> None:  # noqa: A002
        answer = self._calls.get(id)
        if answer is not None and not answer.done():
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(CallError(error))

    async def _ray_listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._settings.ray_port)
        except OSError:
            return False
        writer.close()
        return True
