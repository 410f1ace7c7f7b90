"""Who computes: one thread at a time, the most urgent first, and between two steps a more urgent one takes over."""

import threading
import time
from collections.abc import Callable

# The lower, the more urgent; in the end the order of arrival decides.
Rank = tuple[int, int]


class Cancelled(Exception):
    """Raised in the thread of a turn that nobody waits for any more."""


class Gate:
    """Turns at one device. A thread between ``enter`` and ``leave`` either computes or waits inside ``step``."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._changed = threading.Condition()
        self._wanting: list[Turn] = []
        self._holder: Turn | None = None
        self._clock = clock

    def turn(self, rank: Rank) -> "Turn":
        return Turn(self, rank)

    @property
    def idle(self) -> bool:
        """Whether nobody computes or wants to."""
        with self._changed:
            return self._holder is None and not self._wanting


class Turn:
    """One computation's right to the device. ``held_s`` is how long it has had it."""

    def __init__(self, gate: Gate, rank: Rank) -> None:
        self._gate = gate
        self.rank = rank
        self._cancelled = False
        self._held = 0.0
        self._since = 0.0

    @property
    def held_s(self) -> float:
        with self._gate._changed:
            running = self._gate._clock() - self._since if self._gate._holder is self else 0.0
            return self._held + running

    def enter(self) -> None:
        """Waits for the device. Raises ``Cancelled``, also later in ``step``, once ``cancel`` was called."""
        with self._gate._changed:
            self._gate._wanting.append(self)
            self._take()

    def step(self, away: Callable[[], None] = lambda: None) -> bool:
        """To be called between two steps: whether the device was given to others meanwhile.

        ``away`` is called, with the gate locked, when it is about to be.
        """
        gate = self._gate
        with gate._changed:
            self._check()
            if not any(other.rank < self.rank for other in gate._wanting):
                return False
            away()
            self._give()
            gate._wanting.append(self)
            self._take()
            return True

    def leave(self) -> None:
        """Gives the device back; does nothing for a turn that does not have it."""
        with self._gate._changed:
            if self._gate._holder is self:
                self._give()

    def cancel(self) -> None:
        """From any thread: the turn's own raises ``Cancelled``, at once if it waits, else at its next step."""
        with self._gate._changed:
            self._cancelled = True
            self._gate._changed.notify_all()

    def check(self) -> None:
        """Raises ``Cancelled`` if it is. For places inside a step where nothing may be handed over."""
        with self._gate._changed:
            self._check()

    def _check(self) -> None:
        if self._cancelled:
            raise Cancelled

    def _take(self) -> None:
        gate = self._gate
        try:
            while not self._cancelled and (gate._holder is not None or min(t.rank for t in gate._wanting) < self.rank):
                gate._changed.wait()
            self._check()
        finally:
            gate._wanting.remove(self)
            # Who waits behind this one may be next.
            gate._changed.notify_all()
        gate._holder, self._since = self, gate._clock()

    def _give(self) -> None:
        gate = self._gate
        self._held += gate._clock() - self._since
        gate._holder = None
        gate._changed.notify_all()
