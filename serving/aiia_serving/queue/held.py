"""What one gateway itself knows of its tickets in the fair queue, and how it goes on alone while Redis is away."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from aiia_serving.queue import ClassLoad, Place, QueueLoad, Work, WorkClass


class Leaves(Protocol):
    """The queue that a ticket is given back to."""

    def leave(self, line: "Line", ticket: "RedisTicket", cost: float | None) -> None: ...


class Line:
    """This gateway's tickets of one model, in the order they came.

    ``slots`` is what this gateway was told, None if nothing, at ``told_at``; ``shared_slots`` is what Redis was last
    seen to have. ``version`` counts the changes.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.key = f"aiia:queue:{{{model}}}"
        self.tickets: dict[str, RedisTicket] = {}
        self._running: Counter[str] = Counter()
        self.slots: int | None = None
        self.told_at = 0.0
        self.shared_slots: int | None = None
        self.version = 0
        self.ticking = False
        self.ticked_at = 0.0

    def tell(self, slots: int) -> None:
        self.slots, self.told_at = slots, time.monotonic()
        self.version += 1

    def add(self, ticket: "RedisTicket") -> None:
        self.tickets[ticket.id] = ticket
        self.version += 1

    def drop(self, ticket: "RedisTicket") -> None:
        if self.tickets.pop(ticket.id, None) is not None and ticket.admitted:
            user = ticket.work.user
            self._running[user] -= 1
            if not self._running[user]:
                del self._running[user]
        self.version += 1

    def start(self, ticket: "RedisTicket") -> int:
        """The ticket runs from now on; says how many of its user's did before. One that has left does not count."""
        before = self._running[ticket.work.user]
        if ticket.id in self.tickets:
            self._running[ticket.work.user] = before + 1
        return before

    def waiting(self) -> "list[RedisTicket]":
        return [ticket for ticket in self.tickets.values() if not ticket.admitted]

    def admit(self, ticket_ids: Iterable[str]) -> None:
        """These have a slot. Says nothing to those who knew."""
        for ticket_id in ticket_ids:
            ticket = self.tickets.get(ticket_id)
            if ticket is not None and ticket.admit():
                self.version += 1
                ticket.notify()

    def admit_alone(self) -> None:
        """Fills the slots first come, first served, as if there were no other gateway."""
        waiting = self.waiting()
        free = max((self.slots or 0) - (len(self.tickets) - len(waiting)), 0)
        self.admit([ticket.id for ticket in waiting[:free]])
        for position, ticket in enumerate(waiting[free:], 1):
            ticket.move(position, None)

    def load(self) -> QueueLoad:
        waiting = self.waiting()
        running = [ticket for ticket in self.tickets.values() if ticket.admitted]
        return QueueLoad(
            waiting=len(waiting),
            running=len(running),
            slots=self.slots or 0,
            waiting_cost=sum(ticket.work.cost for ticket in waiting),
            running_cost=sum(ticket.work.cost for ticket in running),
            classes=by_class((ticket.work.work_class, ticket.waited_s()) for ticket in waiting),
        )

    def places(self) -> list[Place]:
        return [ticket.place() for ticket in self.tickets.values()]


class RedisTicket:
    """Implements ``aiia_serving.queue.Ticket``.

    ``known`` says that Redis has heard of it, ``spent`` is the cost so far, ``lag`` how far its user is behind.
    """

    def __init__(self, queue: Leaves, line: Line, ticket_id: str, work: Work, notify: Callable[[], None]) -> None:
        self._queue = queue
        self._line = line
        self._released = False
        self._alarm: asyncio.TimerHandle | None = None
        self._news = False
        self.id = ticket_id
        self.work = work
        self.notify = notify
        self.entered_at = time.monotonic()
        self.started_at: float | None = None
        self.beside = 0
        self.expired = False
        self.position = 1
        self.eta_s: float | None = None
        self.known = False
        self.spent = 0.0
        self.lag = 0.0
        if work.deadline_s is not None:
            self._alarm = asyncio.get_running_loop().call_later(work.deadline_s, self._expire)

    @property
    def admitted(self) -> bool:
        return self.started_at is not None

    def progress(self, cost: float) -> None:
        self.spent, self._news = cost, True

    def take_progress(self) -> list[str | float]:
        """The id and the cost so far, if that has changed since it was last taken."""
        news, self._news = self._news, False
        return [self.id, self.spent] if news else []

    def release(self, cost: float | None = None) -> None:
        if not self._released:
            self._released = True
            self.position, self.eta_s = 0, 0.0
            self._disarm()
            self._queue.leave(self._line, self, cost)

    def admit(self) -> bool:
        """Gives it its slot. Says whether that is new."""
        if self.admitted:
            return False
        self.started_at = time.monotonic()
        self.beside = self._line.start(self)
        self.position, self.eta_s = 0, 0.0
        self._disarm()
        return True

    def move(self, position: int, eta_s: float | None) -> None:
        """Sets its place, and tells of it if a reader would see the difference."""
        was = self.position, _rounded(self.eta_s)
        self.position, self.eta_s = position, eta_s
        if was != (position, _rounded(eta_s)):
            self.notify()

    def waited_s(self) -> float:
        return (self.started_at or time.monotonic()) - self.entered_at

    def place(self) -> Place:
        work = self.work
        return Place(work.id, work.model, work.user, work.work_class, self.position, self.eta_s, self.waited_s())

    def _expire(self) -> None:
        self.expired = True
        self.release(0)
        self.notify()

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()


def by_class(waits: Iterable[tuple[WorkClass, float]]) -> dict[WorkClass, ClassLoad]:
    """Counts waiting requests, each given as its class and the seconds it has waited."""
    classes: dict[WorkClass, ClassLoad] = {}
    for work_class, waited_s in waits:
        seen = classes.get(work_class, ClassLoad())
        classes[work_class] = ClassLoad(seen.waiting + 1, max(seen.oldest_s, waited_s))
    return classes


def _rounded(eta_s: float | None) -> int | None:
    return None if eta_s is None else round(eta_s)
