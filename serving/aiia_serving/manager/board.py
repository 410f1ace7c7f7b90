"""The states of all models, with a version that long polls wait on."""

import asyncio
import uuid

from aiia_serving.state import ModelState, StateReport


class Board:
    """Written by the manager's parts, read by ``GET /state``. Versions of two processes never meet: each has a mark."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex[:8]
        self._version = 0
        self._models: dict[str, ModelState] = {}
        self._changed = asyncio.Condition()

    def get(self, model_id: str) -> ModelState | None:
        return self._models.get(model_id)

    def report(self) -> StateReport:
        models = [self._models[model_id] for model_id in sorted(self._models)]
        return StateReport(version=f"{self._mark}-{self._version}", models=models)

    async def put(self, state: ModelState) -> None:
        """Sets one model's state; nothing happens when it is as it was."""
        if self._models.get(state.id) != state:
            self._models[state.id] = state
            await self._bump()

    async def drop(self, model_id: str) -> None:
        if self._models.pop(model_id, None) is not None:
            await self._bump()

    async def wait(self, after: str, seconds: float) -> StateReport:
        """The report as soon as its version differs from ``after``, or after ``seconds``."""
        async with self._changed:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait_for(lambda: self.report().version != after)
            except TimeoutError:
                pass
        return self.report()

    async def _bump(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()
