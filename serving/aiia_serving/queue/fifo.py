"""First come, first served, per model and inside one gateway process."""

import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import count

from aiia_serving.queue import QueueFullError, Ticket, Work

# Weight of the newest duration in the running mean that estimates are made from.
_NEWEST = 0.2


class FifoQueue:
    """Implements ``aiia_serving.queue.Queue``. At most ``max_waiting`` tickets wait per model."""

    def __init__(self, max_waiting: int = 256, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_waiting = max_waiting
        self._clock = clock
        self._lines: dict[str, _Line] = {}

    def enter(self, work: Work, notify: Callable[[], None]) -> Ticket:
        line = self._line(work.model)
        if len(line.waiting) >= self._max_waiting:
            raise QueueFullError(line.estimate(len(line.waiting)) or 1.0)
        return line.enter(notify)

    def set_capacity(self, model: str, slots: int) -> None:
        self._line(model).set_slots(slots)

    def _line(self, model: str) -> "_Line":
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = _Line(self._clock)
        return line


class _Line:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.slots = 0
        self.running = 0
        self.waiting: OrderedDict[int, _FifoTicket] = OrderedDict()
        self._numbers = count()
        self._mean_s: float | None = None

    def enter(self, notify: Callable[[], None]) -> "_FifoTicket":
        ticket = _FifoTicket(self, next(self._numbers), notify)
        self.waiting[ticket.number] = ticket
        self._admit(moved=False)
        return ticket

    def set_slots(self, slots: int) -> None:
        if slots != self.slots:
            self.slots = slots
            self._admit(moved=True)

    def leave(self, ticket: "_FifoTicket") -> None:
        if ticket.started_at is None:
            del self.waiting[ticket.number]
        else:
            self.running -= 1
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

    def _admit(self, moved: bool) -> None:
        admitted: list[_FifoTicket] = []
        while self.waiting and self.running < self.slots:
            _, ticket = self.waiting.popitem(last=False)
            ticket.started_at = self.clock()
            self.running += 1
            admitted.append(ticket)
        # A callback may enter or release, so the line must be settled before the first is called.
        for ticket in [*admitted, *(self.waiting.values() if moved or admitted else ())]:
            ticket.notify()


class _FifoTicket:
    def __init__(self, line: _Line, number: int, notify: Callable[[], None]) -> None:
        self._line = line
        self._released = False
        self.number = number
        self.notify = notify
        self.started_at: float | None = None

    @property
    def admitted(self) -> bool:
        return self.started_at is not None

    @property
    def position(self) -> int:
        return 0 if self.admitted or self._released else self._line.position(self)

    @property
    def eta_s(self) -> float | None:
        return 0.0 if self.admitted else self._line.estimate(self.position)

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._line.leave(self)
