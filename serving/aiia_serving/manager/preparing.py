"""Model files: fetched or converted by a process of their own, one model after the other."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines import store
from aiia_serving.manager.timings import Timings

# Before anything was measured; on a small machine without a GPU.
_FIRST_GUESS_S = 40.0
_SPEAKS_AGAIN_S = 1.0


@dataclass
class Step:
    """What is being done: a fraction from 0 to 1, in words, and the seconds that are left."""

    progress: float
    reason: str
    eta_s: float


class Preparing:
    """Prepares the models given to ``ask``, for as long as ``run`` runs. Calls ``changed`` at every step."""

    def __init__(self, cache: Path, timings: Timings, changed: Callable[[], None]) -> None:
        self._cache = cache
        self._timings = timings
        self._changed = changed
        self._asked: dict[str, ModelDocument] = {}
        self._now: tuple[str, asyncio.subprocess.Process] | None = None
        self._steps: dict[str, Step] = {}
        self._failures: dict[str, str] = {}
        # What was here once counts as here: a volume that is away for a moment must not end what runs.
        self._present: set[str] = set()
        self._work = asyncio.Event()

    def ask(self, document: ModelDocument) -> None:
        """This model's files are wanted, now also if that failed before."""
        self._failures.pop(document.id, None)
        self._asked[document.id] = document
        self._work.set()

    def forget(self, name: str) -> None:
        """This model's files are not wanted any more, or its document is another one."""
        self._failures.pop(name, None)
        self._asked.pop(name, None)
        self._present.discard(name)
        if self._now is not None and self._now[0] == name and self._now[1].returncode is None:
            self._now[1].kill()

    def present(self, document: ModelDocument) -> bool:
        """Whether everything of this model is here."""
        if document.id not in self._present:
            try:
                if store.is_present(document, self._cache):
                    self._present.add(document.id)
            except LookupError:
                return False
        return document.id in self._present

    def waits(self, name: str) -> bool:
        """Whether it is asked for and has not come to an end."""
        return name in self._asked

    def step(self, name: str) -> Step | None:
        return self._steps.get(name)

    def failure(self, name: str) -> str | None:
        return self._failures.get(name)

    async def run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._asked:
                name, document = next(iter(self._asked.items()))
                await self._prepare(document)
                if self._asked.get(name) is document:
                    del self._asked[name]
                self._changed()

    async def _prepare(self, document: ModelDocument) -> None:
        try:
            if not store.is_present(document, self._cache):
                await self._fetch(document)
        except (LookupError, OSError, ValueError) as error:
            self._failures[document.id] = str(error.args[0] if isinstance(error, LookupError) else error)

    async def _fetch(self, document: ModelDocument) -> None:
        name, sources = document.id, store.sources(document)
        command = [sys.executable, "-m", "aiia_serving", "prepare", "--json", *sources]
        pipe = asyncio.subprocess.PIPE
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        if process.stdout is None or process.stderr is None:
            raise OSError("no pipes to the process that prepares models")
        self._now = (name, process)
        errors = asyncio.create_task(process.stderr.read())
        timing = f"prepare:{' '.join(sources)}"
        usual = self._timings.get(timing) or _FIRST_GUESS_S
        said: dict[str, Any] = {"progress": 0.0, "reason": "Preparing"}
        try:
            reading = asyncio.create_task(process.stdout.readline())
            while True:
                elapsed = time.monotonic() - started
                # Between two steps time itself is what moves.
                progress = (
                    max(said["progress"], min(0.95, elapsed / usual)) if "eta_s" not in said else said["progress"]
                )
                self._steps[name] = Step(progress, said["reason"], said.get("eta_s", max(1.0, usual - elapsed)))
                self._changed()
                if not (await asyncio.wait({reading}, timeout=_SPEAKS_AGAIN_S))[0]:
                    continue
                if not (line := reading.result()):
                    break
                said = json.loads(line)
                reading = asyncio.create_task(process.stdout.readline())
            if await process.wait():
                last = (await errors).decode(errors="replace").strip().splitlines()[-1:]
                if self._asked.get(name) is document:
                    self._failures[name] = f"Preparing the model failed: {last[0] if last else process.returncode}"
            else:
                self._timings.record(timing, time.monotonic() - started)
        finally:
            self._now = None
            self._steps.pop(name, None)
            reading.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
