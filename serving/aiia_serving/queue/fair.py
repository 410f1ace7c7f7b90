"""The fair queue of all gateways, kept in Redis. docs/developers/fair-queue.md explains how it decides.

Redis decides; this side remembers its own tickets, so that losing Redis costs fairness and a moment, never a request:
while it is away they go first come, first served, and when it is back they are registered again.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from itertools import count
from typing import Any, cast

from aiia_serving.queue import EXPRESS, Abandoned, Place, QueueFullError, QueueLoad, Unit, Work, WorkClass
from aiia_serving.queue.held import Line, RedisTicket, by_class
from aiia_serving.queue.link import Link, LinkDownError

log = logging.getLogger(__name__)

_CLASSES: tuple[WorkClass, ...] = ("interactive", "api", "batch")
_CHANNEL = "aiia:queue:gateway:"


class RedisQueue:
    """Implements ``aiia_serving.queue.Queue`` over all gateways that use one Redis. Needs a running event loop.

    At most ``max_waiting`` tickets wait per model. A user who was not served for ``ageing_s`` moves up one class.
    Beyond a model's slots, a share ``express`` of them is given to users who have nothing in flight. A gateway that
    was silent for ``lease_s`` is dead; it speaks every ``tick_s``, and every ``refresh_s`` while its tickets wait.
    After a loss of all data no slot is given for ``grace_s``, so that all gateways can come back first. A Redis that
    is silent for ``timeout_s`` is away. ``clock`` gives the scripts their time instead of the Redis server's clock.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        gateway_id: str | None = None,
        max_waiting: int = 256,
        abandoned: Abandoned | None = None,
        ageing_s: float = 60,
        express: float = EXPRESS,
        lease_s: float = 5,
        tick_s: float = 1,
        refresh_s: float = 0.25,
        grace_s: float = 1,
        timeout_s: float = 1,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._gateway = gateway_id or uuid.uuid4().hex[:12]
        self._max_waiting = max_waiting
        self._abandoned = abandoned
        self._ageing_s = ageing_s
        self._express = express
        self._lease_s = lease_s
        self._tick_s = tick_s
        self._refresh_s = refresh_s
        self._grace_s = grace_s
        self._clock = clock
        self._timeout_s = timeout_s
        self._numbers = count()
        self._lines: dict[str, Line] = {}
        self._taken_over: set[str] = set()
        self._was_up = False
        self._link = Link(
            redis_url,
            _CHANNEL + self._gateway,
            on_up=self._on_up,
            on_down=self._on_down,
            on_message=self._on_message,
            timeout_s=timeout_s,
        )
        self._ticker = asyncio.create_task(self._tick_on())

    @property
    def connected(self) -> bool:
        """Whether Redis decides; else this gateway does, for itself."""
        return self._link.up

    async def enter(self, work: Work, notify: Callable[[], None]) -> RedisTicket:
        line = self._line(work.model)
        if not self._link.tried.is_set():
            await self._first_try()
        if not self.connected and len(line.waiting()) >= self._max_waiting:
            raise QueueFullError(1.0)
        # A process that is restarted must not take the ids of its own past.
        ticket = RedisTicket(self, line, f"{self._gateway}.{time.time_ns():x}.{next(self._numbers)}", work, notify)
        line.add(ticket)
        try:
            if self.connected:
                await self._enter_shared(line, ticket)
        except QueueFullError:
            line.drop(ticket)
            raise
        except LinkDownError:
            pass
        except BaseException:
            ticket.release(0)
            raise
        if not self.connected:
            line.admit_alone()
        return ticket

    def set_capacity(self, model: str, slots: int) -> None:
        line = self._line(model)
        # What Redis has may be an old answer of a tick, so that a change is told in any case.
        is_known = slots == line.slots == line.shared_slots
        line.tell(slots)
        if not self.connected:
            line.admit_alone()
        elif not is_known:
            line.shared_slots = slots
            self._post(line, line.admit, "capacity", slots, 0)

    async def load(self) -> dict[str, QueueLoad]:
        return {line.model: await self._load(line) for line in list(self._lines.values())}

    async def places(self, user: str | None = None) -> list[Place]:
        places = [place for line in list(self._lines.values()) for place in await self._places(line)]
        return [place for place in places if user in (None, place.user)]

    async def close(self) -> None:
        self._ticker.cancel()
        for line in self._lines.values():
            line.slots = 0
            for ticket in list(line.tickets.values()):
                ticket.release()
        await self._link.close()

    def leave(self, line: Line, ticket: RedisTicket, cost: float | None) -> None:
        """What ``RedisTicket.release`` does."""
        line.drop(ticket)
        if self.connected:
            self._post(line, line.admit, "release", ticket.id, "" if cost is None else cost)
        else:
            line.admit_alone()

    # Redis ------------------------------------------------------------------------------------------------------------

    def _line(self, model: str) -> Line:
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = Line(model)
        return line

    async def _first_try(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._link.tried.wait()
        except TimeoutError:
            log.warning("redis does not answer")

    def _send(self, line: Line, script: str, *args: Any) -> "asyncio.Future[Any]":
        now = "" if self._clock is None else repr(self._clock())
        return self._link.post(script, line.key, now, self._gateway, self._ageing_s, self._express, *args)

    def _post(self, line: Line, then: Callable[[Any], None], script: str, *args: Any) -> None:
        """Runs a script whose answer nobody waits for. What is lost here is found by the next tick or registration."""
        self._then(then, self._send(line, script, *args))

    @staticmethod
    def _then(then: Callable[[Any], None], answer: "asyncio.Future[Any]") -> None:
        def done(answer: "asyncio.Future[Any]") -> None:
            if not answer.cancelled() and answer.exception() is None:
                then(answer.result())

        answer.add_done_callback(done)

    async def _enter_shared(self, line: Line, ticket: RedisTicket) -> None:
        state, *rest = await self._send(line, "enter", ticket.id, *_described(ticket.work), self._max_waiting)
        if state == "full":
            raise QueueFullError(_seconds(rest[0]) or 1.0)
        ticket.known = True
        if state == "running":
            ticket.admit()
        elif not ticket.admitted:
            ticket.position, ticket.eta_s = rest[0], _seconds(rest[1])

    def _on_message(self, ticket_id: str) -> None:
        for line in self._lines.values():
            line.admit([ticket_id])

    def _on_down(self) -> None:
        for line in list(self._lines.values()):
            line.shared_slots = None
            line.admit_alone()

    async def _on_up(self) -> None:
        registered: dict[str, int] = {}
        for line in list(self._lines.values()):
            registered[line.model] = line.version
            line.admit(await self._register(line))
        # Meanwhile tickets came and went on this side alone. What is sent from now on goes after this.
        for line in self._lines.values():
            if registered.get(line.model) != line.version:
                self._register_again(line)
        self._was_up = True

    def _register_again(self, line: Line) -> None:
        self._then(line.admit, self._register(line))

    def _register(self, line: Line) -> "asyncio.Future[Any]":
        now = time.monotonic()
        slots: tuple[Any, Any] = ("", "") if line.slots is None else (line.slots, now - line.told_at)
        args: list[Any] = []
        for ticket in line.tickets.values():
            ticket.known = True
            ran = "" if ticket.started_at is None else now - ticket.started_at
            args += (ticket.id, *_described(ticket.work), now - ticket.entered_at, ran, ticket.spent, ticket.lag)
        return self._send(line, "register", self._grace_s if self._was_up else 0, *slots, *args)

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            if self.connected:
                for line in list(self._lines.values()):
                    self._tick(line)

    def _tick(self, line: Line) -> None:
        now = time.monotonic()
        if line.ticking or not (line.waiting() or now - line.ticked_at >= self._tick_s):
            return
        line.ticked_at, line.ticking = now, True
        held = {ticket.id: ticket.known for ticket in line.tickets.values()}
        progress = [value for ticket in line.tickets.values() for value in ticket.take_progress()]
        answer = self._send(line, "tick", self._lease_s, *progress)

        def done(answer: "asyncio.Future[Any]") -> None:
            line.ticking = False
            if not answer.cancelled() and answer.exception() is None:
                self._agree(line, held, *answer.result())

        answer.add_done_callback(done)

    def _agree(
        self, line: Line, held: dict[str, bool], slots: int, running: list[str], waiting: list[Any], lost: list[Any]
    ) -> None:
        """Takes what a tick tells. ``held`` are the tickets when it was sent, and whether Redis had heard of them."""
        line.shared_slots = slots
        line.admit(running)
        there = {*running, *(row[0] for row in waiting)}
        apart = any(known and ticket_id not in there and ticket_id in line.tickets for ticket_id, known in held.items())
        for ticket_id, position, eta, lag in waiting:
            ticket = line.tickets.get(ticket_id)
            if ticket is not None and ticket.admitted:
                apart = True
            elif ticket is not None:
                ticket.lag = float(lag)
                ticket.move(position, _seconds(eta))
        for ticket_id in there - held.keys() - line.tickets.keys():
            self._post(line, line.admit, "release", ticket_id, "")
        if apart:
            self._register_again(line)
        for row in lost:
            self._take_over(line, *row)

    def _take_over(self, line: Line, ticket_id: str, request: str, user: str, rank: int, *rest: str) -> None:
        if ticket_id not in self._taken_over:
            self._taken_over.add(ticket_id)
            cost, weight, unit, note, spent = rest
            work = Work(
                line.model, user, _CLASSES[rank], float(cost), cast(Unit, unit), float(weight), request, note=note
            )
            if self._abandoned is not None:
                self._abandoned(work, float(spent))
        self._post(line, lambda _: self._taken_over.discard(ticket_id), "release", ticket_id, "")

    async def _load(self, line: Line) -> QueueLoad:
        try:
            slots, speed, waiting, running = await self._send(line, "view", "load")
        except LinkDownError:
            return line.load()
        costs = [float(cost) for _, _, cost in waiting]
        return QueueLoad(
            waiting=len(waiting),
            running=len(running),
            slots=slots,
            waiting_cost=sum(costs),
            running_cost=sum(float(cost) for cost in running),
            work_s=sum(costs) / float(speed) if speed and float(speed) else None,
            classes=by_class([(_CLASSES[rank], float(waits)) for rank, waits, _ in waiting]),
        )

    async def _places(self, line: Line) -> list[Place]:
        try:
            rows = await self._send(line, "view", "places")
        except LinkDownError:
            return line.places()
        return [
            Place(request, line.model, user, _CLASSES[rank], position, _seconds(eta), float(waited))
            for request, user, rank, position, eta, waited in rows
        ]


def _described(work: Work) -> tuple[Any, ...]:
    rank = _CLASSES.index(work.work_class)
    return work.id, work.user, rank, float(work.cost), float(work.weight), work.unit, work.note


def _seconds(text: str) -> float | None:
    return float(text) if text else None
