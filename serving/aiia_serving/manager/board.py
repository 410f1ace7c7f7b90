"""The states of all models, with a version that long polls wait on, and what has changed lately."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable

from pydantic import BaseModel

from aiia_serving.state import ModelState, State, StateReport

_EVENTS = 1000


class Event(BaseModel):
    """One change of one model's state, ``n`` counting from 1 per manager process, ``at`` in seconds since 1970.

    ``previous`` is None for a model that is new, ``state`` for one that is gone.
    """

    n: int
    at: float
    model: str
    state: State | None
    previous: State | None
    reason: str | None = None


class EventReport(BaseModel):
    """The events after the one that was asked for, as far as they are still known, and the number of the last."""

    last: int
    events: list[Event]


class Board:
    """Written by the manager's parts, read by its HTTP interface.

    Versions of two processes never meet: each has a mark.
    """

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex[:8]
        self._version = 0
        self._models: dict[str, ModelState] = {}
        self._events: deque[Event] = deque(maxlen=_EVENTS)
        self._changed = asyncio.Condition()

    def get(self, model_id: str) -> ModelState | None:
        return self._models.get(model_id)

    def report(self) -> StateReport:
        models = [self._models[model_id] for model_id in sorted(self._models)]
        return StateReport(version=f"{self._mark}-{self._version}", models=models)

    def events(self, after: int) -> EventReport:
        last = self._events[-1].n if self._events else 0
        # A number that was not reached yet comes from the manager before this one.
        after = after if after <= last else 0
        return EventReport(last=last, events=[event for event in self._events if event.n > after])

    async def put(self, state: ModelState) -> None:
        """Sets one model's state; nothing happens when it is as it was."""
        before = self._models.get(state.id)
        if before != state:
            self._models[state.id] = state
            await self._tell(state.id, before, state)

    async def drop(self, model_id: str) -> None:
        before = self._models.pop(model_id, None)
        if before is not None:
            await self._tell(model_id, before, None)

    async def wait(self, after: str, seconds: float) -> StateReport:
        """The report as soon as its version differs from ``after``, or after ``seconds``."""
        await self._until(lambda: self.report().version != after, seconds)
        return self.report()

    async def wait_events(self, after: int, seconds: float) -> EventReport:
        """The events as soon as there is one after ``after``, or after ``seconds``."""
        await self._until(lambda: bool(self.events(after).events), seconds)
        return self.events(after)

    async def _until(self, true: Callable[[], bool], seconds: float) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait_for(true)
            except TimeoutError:
                pass

    async def _tell(self, model_id: str, before: ModelState | None, after: ModelState | None) -> None:
        previous, state = before.state if before else None, after.state if after else None
        async with self._changed:
            self._version += 1
            if previous != state:
                number = self._events[-1].n + 1 if self._events else 1
                reason = after.reason if after else None
                event = Event(n=number, at=time.time(), model=model_id, state=state, previous=previous, reason=reason)
                self._events.append(event)
            self._changed.notify_all()
