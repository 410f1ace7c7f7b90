"""The decision itself: numbers in, a number of replicas out."""

import math
from dataclasses import dataclass

# One replica fewer must still have room for what runs now, or the next request brings it back.
_ROOM = 0.8


@dataclass(frozen=True)
class Demand:
    """What a model's queue holds. ``work_s``: time of all waiting work at the present speed, None while not known."""

    waiting: int = 0
    running: int = 0
    slots: int = 0
    work_s: float | None = None

    @property
    def idle(self) -> bool:
        return self.waiting == 0 and self.running == 0


@dataclass(frozen=True)
class Rules:
    """The bounds and times of one model. ``window`` is the number of requests in flight per replica."""

    min_replicas: int
    max_replicas: int
    window: int = 32
    target_wait_s: float = 10
    scale_down_after_s: float = 300
    scale_to_zero_after_s: float = 900

    def clamp(self, replicas: int) -> int:
        return min(max(replicas, self.min_replicas), self.max_replicas)


def wanted(demand: Demand, current: int, rules: Rules) -> int:
    """The replicas that this demand asks for, whatever was before; ``current`` are those of now."""
    if demand.idle:
        return rules.clamp(0)
    if demand.waiting == 0:
        return rules.clamp(max(1, min(current, math.ceil(demand.running / (rules.window * _ROOM)))))
    # With as many as this nothing waits any more.
    enough = math.ceil((demand.waiting + demand.running) / rules.window)
    in_time = 1
    if demand.work_s is not None:
        working = max(1.0, demand.slots / rules.window)
        in_time = math.ceil(min(working * demand.work_s / rules.target_wait_s, enough))
    return rules.clamp(max(1, current, min(enough, in_time)))


class Scaler:
    """Decides for one model again and again: up at once, down only after the rules' time of less demand."""

    def __init__(self) -> None:
        self._idle_since: float | None = None
        self._less_since: float | None = None
        # The most that was wanted since then.
        self._most = 0

    def decide(self, demand: Demand, current: int, rules: Rules, now: float) -> int:
        """The replicas to have from ``now`` (seconds of any steady clock) on; ``current`` is the last decision."""
        current = rules.clamp(current)
        want = wanted(demand, current, rules)
        if not demand.idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        if want >= current:
            self._less_since = None
            return want
        if self._less_since is None:
            self._less_since, self._most = now, 0
        self._most = max(self._most, want, 1)
        if current > 1:
            if now - self._less_since < rules.scale_down_after_s:
                return current
            self._less_since = None
            return rules.clamp(self._most)
        # Less than one replica is wanted by nobody but an idle model.
        idle = self._idle_since is not None and now - self._idle_since >= rules.scale_to_zero_after_s
        return want if idle else current
