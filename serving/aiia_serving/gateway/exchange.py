"""One request for a model's work: its turn in the queue, tries while that is safe, and what it used."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiia_serving import tracing
from aiia_serving.gateway import metrics
from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.errors import ApiError, overloaded, unavailable, unsupported
from aiia_serving.gateway.reply import CallerLeftError, Reply
from aiia_serving.gateway.services import Gateway
from aiia_serving.gateway.turn import Status, Turn
from aiia_serving.gateway.upstream import UpstreamLostError
from aiia_serving.gateway.usage import Outcome, Usage
from aiia_serving.queue import QueueFullError, Ticket, Work
from aiia_serving.state import ModelState

_PROGRESS_EVERY_S = 1.0
_BACKOFF_S = (0.1, 0.25, 0.5, 1.0, 2.0)
# A request that is itself what fails the engine must not fail one after the other.
_MOST_FAILURES = 2


class Exchange:
    """Serves one parsed request. Cancelling ``serve`` closes the model's connection, which ends its work there."""

    #: The word in ``ModelState.capabilities`` that the model must have; a model that names none is not checked.
    needs: str

    def __init__(
        self,
        gateway: Gateway,
        caller: Caller,
        reply: Reply,
        usage: Usage,
        *,
        estimated_cost: float,
        deadline_s: float | None = None,
    ) -> None:
        self._gateway = gateway
        self._caller = caller
        self._reply = reply
        self._estimated_cost = estimated_cost
        self._deadline_s = deadline_s
        self._headers = {"X-Request-Id": reply.request_id}
        self._ticket: Ticket | None = None
        self.usage = usage
        self.retries = 0
        self.continuations = 0

    async def _attempt(self, model: ModelState) -> None:
        """Asks a ready model and answers the caller. Raises ``UpstreamLostError`` when another try is safe."""
        raise NotImplementedError

    def _starts_over(self) -> bool:
        """Whether the time for further tries begins anew, because the lost one had got somewhere."""
        return False

    async def _report(self, status: Status) -> None:
        """Tells the caller what the request waits for, where its protocol has a way to."""

    async def serve(self) -> None:
        """Answers the caller completely. Raises ``ApiError``, also after a stream has begun."""
        gateway, usage = self._gateway, self.usage
        model = await gateway.registry.get(usage.model)
        if model.capabilities and self.needs not in model.capabilities:
            raise unsupported(model.id, self.needs, model.capabilities)
        turn = Turn(gateway.registry, model.id, self._report, gateway.settings.gateway_hold_s)
        outcome: Outcome = "cancelled"
        try:
            self._ticket = await self._enter(model, turn)
            with gateway.registry.listen(turn.wake), self._telling_progress(self._ticket):
                await self._try_until_answered(turn, self._ticket)
            outcome = "complete"
        except CallerLeftError:
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            self._settle()
            if self._ticket is not None:
                # What never had a slot has cost nothing.
                self._ticket.release(usage.cost if usage.admitted_at is not None else 0)
            gateway.meter.record(usage, outcome)
            metrics.finished(usage, retried=self.retries, continued=self.continuations)

    def _cost_so_far(self) -> float:
        """What the request has cost until now, roughly: it counts if this gateway dies."""
        return 0.0

    @contextmanager
    def _telling_progress(self, ticket: Ticket) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def tell() -> None:
            nonlocal timer
            if ticket.admitted:
                ticket.progress(self._cost_so_far())
            timer = loop.call_later(_PROGRESS_EVERY_S, tell)

        tell()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _settle(self) -> None:
        """Completes ``usage`` with what is known when the request is over, however it ended."""

    async def _enter(self, model: ModelState, turn: Turn) -> Ticket:
        work = Work(
            model=model.queue,
            user=self._caller.user,
            work_class=self._caller.work_class,
            cost=self._estimated_cost,
            unit=self.usage.unit,
            id=self.usage.request_id,
            deadline_s=self._deadline_s,
            note=self.usage.note(),
        )
        try:
            return await self._gateway.queue.enter(work, turn.wake)
        except QueueFullError as full:
            raise overloaded(
                f"Too many requests wait for the model '{model.id}'.",
                code="queue_full",
                retry_after_s=full.retry_after_s,
            ) from full

    async def _try_until_answered(self, turn: Turn, ticket: Ticket) -> None:
        give_up_at: float | None = None
        failures = 0
        while True:
            asked_at = time.monotonic()
            with tracing.span("wait for a turn", model=self.usage.model):
                model = await turn.come(ticket)
            self.usage.admit()
            if give_up_at is not None:
                # The time a model was not ready in between counts against the hold time alone.
                give_up_at += time.monotonic() - asked_at
            try:
                with tracing.span("ask the model", tracing.SpanKind.CLIENT, model=model.id):
                    return await self._attempt(model)
            except UpstreamLostError as lost:
                if lost.said is not None:
                    failures += 1
                    if failures > _MOST_FAILURES:
                        raise lost.said from lost
                now = time.monotonic()
                if give_up_at is None or self._starts_over():
                    give_up_at = now + self._gateway.settings.gateway_retry_s
                elif now >= give_up_at:
                    raise self._lost_for_good(model, lost) from lost
            await turn.pause(_BACKOFF_S[min(self.retries, len(_BACKOFF_S) - 1)])
            self.retries += 1

    def _lost_for_good(self, model: ModelState, lost: UpstreamLostError) -> ApiError:
        return unavailable(f"The model '{model.id}' does not answer: {lost}.", code="upstream_lost")


async def until_disconnected(work: Any, leaving: Any) -> bool:
    """Runs the coroutine ``work`` to its end, or until the coroutine ``leaving`` ends first. Whether ``work`` ended."""
    serving = asyncio.create_task(work)
    left = asyncio.create_task(leaving)
    try:
        await asyncio.wait({serving, left}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            return True
        return False
    finally:
        left.cancel()
        serving.cancel()
        await asyncio.gather(serving, left, return_exceptions=True)
