"""Waiting for a turn: first for the model to be ready, then for a slot, with every change reported."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiia_serving.gateway.errors import overloaded, unavailable
from aiia_serving.gateway.registry import Registry
from aiia_serving.queue import Ticket
from aiia_serving.state import ModelState, State

# Proxies close connections that are silent for longer, commonly after 60 s.
_HEARTBEAT_S = 15


@dataclass(frozen=True)
class Status:
    """One ``aiia.status`` event; the keys are those of the interface in docs/developers/architecture.md."""

    fields: tuple[tuple[str, Any], ...]

    @classmethod
    def queued(cls, ticket: Ticket) -> "Status":
        eta_s = ticket.eta_s
        return cls(
            (("phase", "queued"), ("position", ticket.position), ("eta_s", None if eta_s is None else round(eta_s)))
        )

    @classmethod
    def starting(cls, model: ModelState) -> "Status":
        return cls(
            (
                ("phase", "starting"),
                ("state", model.state.value),
                ("reason", model.reason),
                ("progress", model.progress),
                ("eta_s", model.eta_s),
            )
        )

    @classmethod
    def running(cls) -> "Status":
        return cls((("phase", "running"),))

    def event(self) -> bytes:
        return b"event: aiia.status\ndata: %b\n\n" % json.dumps(dict(self.fields), ensure_ascii=False).encode()

    def comment(self) -> bytes:
        return b": %b\n\n" % dict(self.fields)["phase"].encode()


Report = Callable[[Status], Awaitable[None]]


class Turn:
    """The way of one request from its place in the queue to a ready model.

    ``wake`` must be called after every change of the ticket or of a model.
    """

    def __init__(self, registry: Registry, model_id: str, report: Report, hold_s: float) -> None:
        self._registry = registry
        self._model_id = model_id
        self._report = report
        self._hold_s = hold_s
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def come(self, ticket: Ticket) -> ModelState:
        """The model, ready, when it is the ticket's turn.

        Raises ``ApiError``: 503 when the model has failed, was unloaded or is not ready within the hold time, 429 when
        no slot is free by then or by the ticket's deadline, 404 when the model was removed.
        """
        model = self._registry.current(self._model_id)
        if ticket.admitted and model.state is State.READY:
            return model
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._hold_s
        said: Status | None = None
        while True:
            self._changed.clear()
            model = self._registry.current(self._model_id)
            if model.state is State.FAILED:
                raise unavailable(f"The model '{model.id}' has failed: {model.reason}", code="model_failed")
            if model.state is State.COLD and not model.starts_on_demand:
                raise unavailable(f"The model '{model.id}' is not running: {model.reason}", code="model_unloaded")
            if model.state is State.READY and ticket.admitted:
                return model
            left = deadline - loop.time()
            if left <= 0 or ticket.expired:
                raise _too_late(model, ticket)
            status = Status.queued(ticket) if model.state is State.READY else Status.starting(model)
            if status != said:
                said = status
                await self._report(status)
            try:
                await asyncio.wait_for(self._changed.wait(), min(left, _HEARTBEAT_S))
            except TimeoutError:
                said = None

    async def pause(self, seconds: float) -> None:
        """Waits for a change of any model or of the ticket, at most ``seconds``."""
        self._changed.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)


def _too_late(model: ModelState, ticket: Ticket) -> Exception:
    if model.state is State.READY:
        return overloaded(
            f"The model '{model.id}' had no free slot in time.", code="queue_timeout", retry_after_s=ticket.eta_s or 10
        )
    return unavailable(
        f"The model '{model.id}' was not ready in time: {model.state.value}, {model.reason or 'no reason known'}.",
        code="model_not_ready",
        retry_after_s=model.eta_s or 10,
    )
