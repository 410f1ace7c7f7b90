"""How long is left, from measured step times."""

import threading
from collections.abc import Hashable
from dataclasses import dataclass

# How much the newest measure counts against those before it.
_NEWEST = 0.3


@dataclass(frozen=True)
class Times:
    """Seconds of one step, and of all that comes before the first and after the last of them."""

    step_s: float
    around_s: float = 0.0


class Pace:
    """Remembers times by the shape of the work: kind of call, size, images in the batch. For any number of threads."""

    def __init__(self) -> None:
        self._times: dict[Hashable, Times] = {}
        self._lock = threading.Lock()

    def learn(self, shape: Hashable, times: Times) -> None:
        with self._lock:
            before = self._times.get(shape, times)
            self._times[shape] = Times(
                before.step_s + _NEWEST * (times.step_s - before.step_s),
                before.around_s + _NEWEST * (times.around_s - before.around_s),
            )

    def of(self, shape: Hashable) -> Times | None:
        with self._lock:
            return self._times.get(shape)


class Watch:
    """Follows one batch: told the time it has computed, without waits, as each step ends."""

    def __init__(self, pace: Pace, shape: Hashable, steps: int) -> None:
        self._pace = pace
        self._shape = shape
        self._steps = steps
        self._known = pace.of(shape)
        self._first: float | None = None
        self._last = 0.0
        self.done = 0

    def step(self, computed_s: float) -> float | None:
        """Seconds left after one more step, all that follows the last one included; None while nothing is known."""
        self.done += 1
        if self._first is None:
            self._first = computed_s
        self._last = computed_s
        step_s = self._step_s()
        if step_s is None:
            return None
        after = self._known.around_s / 2 if self._known else step_s
        return max(0.0, step_s * (self._steps - self.done) + after)

    def end(self, computed_s: float) -> None:
        """The batch is through, its images decoded."""
        if self._first is None:
            return
        step_s = (self._last - self._first) / (self.done - 1) if self.done > 1 else self._first
        self._pace.learn(self._shape, Times(step_s, max(0.0, computed_s - step_s * self.done)))

    def _step_s(self) -> float | None:
        # The first step warms up; its time says little.
        if self._first is not None and self.done > 1:
            return (self._last - self._first) / (self.done - 1)
        return self._known.step_s if self._known else None
