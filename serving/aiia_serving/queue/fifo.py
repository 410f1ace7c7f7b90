"""First come, first served, per model and inside one gateway process."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import count

from aiia_serving.queue import Place, QueueFullError, QueueLoad, Ticket, Work
from aiia_serving.queue.held import by_class

# Weight of the newest duration in the running mean that estimates are made from.
_NEWEST = 0.2


class FifoQueue:
    """Implements ``aiia_serving.queue.Queue``. At most ``max_waiting`` tickets wait per model."""

    def __init__(self, max_waiting: int = 256, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_waiting = max_waiting
        self._clock = clock
        self._lines: dict[str, _Line] = {}

    async def enter(self, work: Work, notify: Callable[[], None]) -> Ticket:
        line = self._line(work.model)
        if len(line.waiting) >= self._max_waiting:
            raise QueueFullError(line.estimate(len(line.waiting)) or 1.0)
        return line.enter(work, notify)

    def set_capacity(self, model: str, slots: int) -> None:
        self._line(model).set_slots(slots)

    async def load(self) -> dict[str, QueueLoad]:
        return {model: line.load() for model, line in self._lines.items()}

    async def places(self, user: str | None = None) -> list[Place]:
        tickets = [ticket for line in self._lines.values() for ticket in line.tickets()]
        return [ticket.place() for ticket in tickets if user in (None, ticket.work.user)]

    async def close(self) -> None:
        for line in self._lines.values():
            line.slots = 0
            for ticket in line.tickets():
                ticket.release()

    def _line(self, model: str) -> "_Line":
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = _Line(self._clock)
        return line


class _Line:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.slots = 0
        self.running: dict[int, _FifoTicket] = {}
        self.waiting: OrderedDict[int, _FifoTicket] = OrderedDict()
        self._numbers = count()
        self._mean_s: float | None = None

    def tickets(self) -> "list[_FifoTicket]":
        return [*self.running.values(), *self.waiting.values()]

    def enter(self, work: Work, notify: Callable[[], None]) -> "_FifoTicket":
        ticket = _FifoTicket(self, next(self._numbers), work, notify)
        self.waiting[ticket.number] = ticket
        self._admit(moved=False)
        return ticket

    def set_slots(self, slots: int) -> None:
        if slots != self.slots:
            self.slots = slots
            self._admit(moved=True)

    def leave(self, ticket: "_FifoTicket", did_work: bool) -> None:
        self.waiting.pop(ticket.number, None)
        self.running.pop(ticket.number, None)
        if ticket.started_at is not None and did_work:
            took = self.clock() - ticket.started_at
            self._mean_s = took if self._mean_s is None else self._mean_s + _NEWEST * (took - self._mean_s)
        self._admit(moved=True)

    def estimate(self, position: int) -> float | None:
        """Seconds until the ticket at ``position`` goes, when all slots are taken."""
        if self._mean_s is None or not self.slots:
            return None
        return self._mean_s * position / self.slots

    def position(self, ticket: "_FifoTicket") -> int:
        return 1 + next(place for place, number in enumerate(self.waiting) if number == ticket.number)

    def load(self) -> QueueLoad:
        now = self.clock()
        return QueueLoad(
            waiting=len(self.waiting),
            running=len(self.running),
            slots=self.slots,
            waiting_cost=sum(ticket.work.cost for ticket in self.waiting.values()),
            running_cost=sum(ticket.work.cost for ticket in self.running.values()),
            work_s=None if self._mean_s is None else self._mean_s * len(self.waiting) / max(self.slots, 1),
            classes=by_class((t.work.work_class, now - t.entered_at) for t in self.waiting.values()),
        )

    def _admit(self, moved: bool) -> None:
        admitted: list[_FifoTicket] = []
        while (ticket := self._next()) is not None:
            number = ticket.number
            del self.waiting[number]
            ticket.start(self.clock())
            self.running[number] = ticket
            admitted.append(ticket)
        # A callback may enter or release, so the line must be settled before the first is called.
        for ticket in [*admitted, *(self.waiting.values() if moved or admitted else ())]:
            ticket.notify()

    def _next(self) -> "_FifoTicket | None":
        free = self.slots - len(self.running)
        if free <= 0:
            return None
        # An image of the batch class leaves the last slot to others, who can take the device from it between two steps.
        last = free == 1 and self.slots > 1
        return next((ticket for ticket in self.waiting.values() if not (last and _gives_way(ticket.work))), None)


def _gives_way(work: Work) -> bool:
    return work.work_class == "batch" and work.unit == "gpu_ms"


class _FifoTicket:
    #: First come, first served in the model too.
    beside = 0

    def __init__(self, line: _Line, number: int, work: Work, notify: Callable[[], None]) -> None:
        self._line = line
        self._released = False
        self._alarm: asyncio.TimerHandle | None = None
        if work.deadline_s is not None:
            self._alarm = asyncio.get_running_loop().call_later(work.deadline_s, self._expire)
        self.number = number
        self.work = work
        self.notify = notify
        self.entered_at = line.clock()
        self.started_at: float | None = None
        self.expired = False

    @property
    def admitted(self) -> bool:
        return self.started_at is not None

    @property
    def position(self) -> int:
        return 0 if self.admitted or self._released else self._line.position(self)

    @property
    def eta_s(self) -> float | None:
        return 0.0 if self.admitted else self._line.estimate(self.position)

    def start(self, now: float) -> None:
        self.started_at = now
        if self._alarm is not None:
            self._alarm.cancel()

    def progress(self, cost: float) -> None:
        """Means nothing here: the tickets die with their process, and no one is charged for another's turn."""

    def release(self, cost: float | None = None) -> None:
        if not self._released:
            self._released = True
            if self._alarm is not None:
                self._alarm.cancel()
            self._line.leave(self, did_work=cost != 0)

    def place(self) -> Place:
        work = self.work
        waited_s = (self._line.clock() if self.started_at is None else self.started_at) - self.entered_at
        return Place(work.id, work.model, work.user, work.work_class, self.position, self.eta_s, waited_s)

    def _expire(self) -> None:
        self.expired = True
        self.release()
        self.notify()
