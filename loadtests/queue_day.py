"""A day of 10,000 users before one model, in simulated time: the fair queue's scripts beside first come, first served.

``python -m loadtests.queue_day [--write]`` prints the waits by class; ``--write`` draws docs/images/queue-day.svg and
puts the table into docs/developers/fair-queue.md. Both queues get the same requests, slots and bound.
"""

import argparse
import heapq
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import redis

from aiia_serving.queue import WorkClass
from aiia_serving.queue.link import SCRIPTS
from loadtests import report
from loadtests.chart import Panel, draw
from tests.fakes import ROOT
from tests.fakes.gateway import free_port
from tests.support.services import RedisServer

_DAY_S = 86_400
# A gateway speaks every second. Here, where no other waits for its word, less often.
_TICK_S = 10
_CLASSES: tuple[WorkClass, ...] = ("interactive", "api", "batch")
_CHART = ROOT / "docs" / "images" / "queue-day.svg"
_PAGE = "developers/fair-queue.md"


@dataclass(frozen=True)
class Day:
    """What comes. Costs in tokens (prompt + 2 x output), ``rate`` in cost per second and slot.

    At the busiest hour the users want some 90 % of what the model can do. A flood is one user's many requests at once.
    """

    users: int = 10_000
    requests_per_user: float = 12
    slots: int = 32
    rate: float = 100
    max_waiting: int = 256
    floods: int = 8
    flood_requests: int = 600
    shares: tuple[float, float, float] = (0.65, 0.25, 0.1)
    mean_costs: tuple[float, float, float] = (1000, 800, 2500)


@dataclass
class Request:
    """``waited_s`` is None for one that was refused."""

    number: int
    at: float
    user: str
    rank: int
    cost: float
    estimate: float
    flood: bool
    waited_s: float | None = None


class Line(Protocol):
    """A queue in simulated time. Both methods return the numbers of the requests that go now."""

    def enter(self, now: float, request: Request) -> list[int] | None:
        """None: refused."""
        ...

    def release(self, now: float, request: Request) -> list[int]: ...


class FifoLine:
    def __init__(self, day: Day) -> None:
        self._day = day
        self._free = day.slots
        self._waiting: deque[int] = deque()

    def enter(self, now: float, request: Request) -> list[int] | None:
        if len(self._waiting) >= self._day.max_waiting:
            return None
        self._waiting.append(request.number)
        return self._go()

    def release(self, now: float, request: Request) -> list[int]:
        self._free += 1
        return self._go()

    def _go(self) -> list[int]:
        gone = []
        while self._free > 0 and self._waiting:
            self._free -= 1
            gone.append(self._waiting.popleft())
        return gone


class FairLine:
    """The scripts of ``RedisQueue`` with its usual parameters, called as it calls them."""

    def __init__(self, day: Day, client: "redis.Redis[str]") -> None:
        self._client = client
        self._day = day
        self._hashes = {name: client.script_load(source) for name, source in SCRIPTS.items()}
        self._ticked = 0.0
        self._running: set[int] = set()
        self._run("capacity", 0.0, day.slots, 0)

    def enter(self, now: float, request: Request) -> list[int] | None:
        work = (request.number, "", request.user, request.rank, request.estimate, 1, "tokens")
        state, *_ = self._run("enter", now, *work, self._day.max_waiting)
        if state == "full":
            return None
        return self._go([request.number] if state == "running" else [])

    def release(self, now: float, request: Request) -> list[int]:
        self._running.discard(request.number)
        gone = self._run("release", now, request.number, request.cost)
        if now - self._ticked > _TICK_S:
            self._ticked = now
            _, gone, *_ = self._run("tick", now, 2 * _DAY_S)
        return self._go(map(int, gone))

    def _go(self, numbers: Iterable[int]) -> list[int]:
        gone = [number for number in numbers if number not in self._running]
        self._running.update(gone)
        return gone

    def _run(self, script: str, now: float, *args: Any) -> Any:
        return self._client.evalsha(self._hashes[script], 1, "aiia:queue:{day}", repr(now), "g", 60, 1 / 8, *args)


def requests_of(day: Day, random: random.Random) -> list[Request]:
    """All requests in the order they come: most by day, few by night, and the floods."""
    drawn: list[tuple[float, str, int, bool]] = []
    mean_gap = _DAY_S / (day.users * day.requests_per_user)
    at = 0.0
    while at < _DAY_S:
        at += random.expovariate(1 / mean_gap) / 2
        # The sun's course, thinned from twice the mean, with the peak at 14:00.
        if random.random() < 0.5 * (1 + 0.85 * math.cos(2 * math.pi * (at / _DAY_S - 14 / 24))):
            rank = random.choices(range(3), day.shares)[0]
            drawn.append((at, f"user{random.randrange(day.users)}", rank, False))
    for number in range(day.floods):
        start, rank = (number + 0.7) * _DAY_S / (day.floods + 1), number % 3
        drawn += [(start + random.uniform(0, 120), f"flood{number}", rank, True) for _ in range(day.flood_requests)]
    requests = []
    for number, (at, user, rank, flood) in enumerate(sorted(drawn)):
        cost = day.mean_costs[rank] * random.lognormvariate(-0.32, 0.8)
        requests.append(Request(number, at, user, rank, cost, cost * random.lognormvariate(0, 0.5), flood))
    return requests


def play(day: Day, requests: list[Request], line: Line) -> None:
    """Lets the day pass, and notes every wait."""
    ends: list[tuple[float, int]] = []

    def start(now: float, numbers: Iterable[int]) -> None:
        for number in numbers:
            request = requests[number]
            request.waited_s = now - request.at
            heapq.heappush(ends, (now + request.cost / day.rate, number))

    def finish(until: float) -> None:
        while ends and ends[0][0] <= until:
            now, number = heapq.heappop(ends)
            start(now, line.release(now, requests[number]))

    for request in requests:
        finish(request.at)
        start(request.at, line.enter(request.at, request) or ())
    finish(math.inf)


def row(name: str, results: list[list[Request]], which: Callable[[Request], bool]) -> list[str]:
    cells = [name, f"{sum(map(which, results[0])):,}"]
    for requests in results:
        chosen = [request for request in requests if which(request)]
        waits = [request.waited_s for request in chosen if request.waited_s is not None]
        cells.append(f"{report.percentile(waits, 50):.1f} / {report.percentile(waits, 99):.0f}")
        cells.append(f"{1 - len(waits) / len(chosen):.1%}")
    return cells


def table(results: list[list[Request]]) -> str:
    head = ["requests of", "number", "FIFO: wait p50 / p99 (s)", "refused", "fair: wait p50 / p99 (s)", "refused"]
    rows = []
    for rank, name in enumerate(_CLASSES):
        rows.append(row(name, results, lambda request, rank=rank: request.rank == rank and not request.flood))
    return report.table(head, [*rows, row("those who flood", results, lambda request: request.flood)])


def panel(title: str, requests: list[Request]) -> Panel:
    """The waits of everyone but those who flood, by class, in half hours."""
    width = _DAY_S / 48
    lines: dict[str, list[tuple[float, float]]] = {}
    for rank, name in enumerate(_CLASSES):
        bins: list[list[float]] = [[] for _ in range(48)]
        for request in requests:
            if request.rank == rank and not request.flood and request.waited_s is not None:
                bins[min(int(request.at / width), 47)].append(request.waited_s)
        for label, percent in (("p50", 50), ("p99", 99)):
            lines[f"{name} {label}"] = [
                ((n + 0.5) / 2, report.percentile(waits, percent)) for n, waits in enumerate(bins) if waits
            ]
    return Panel(title, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=Day.users, help="fewer give a shorter run, and a smaller model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="draw the chart and write the table into the docs")
    options = parser.parse_args()
    share = options.users / Day.users
    day = Day(users=options.users, slots=max(round(Day.slots * share), 1))
    started = time.perf_counter()
    results = []
    server = RedisServer(free_port())
    server.start()
    try:
        for fair in (False, True):
            requests = requests_of(day, random.Random(options.seed))
            client = redis.Redis(port=server.port, decode_responses=True)
            play(day, requests, FairLine(day, client) if fair else FifoLine(day))
            results.append(requests)
    finally:
        server.kill()
    text = (
        f"{len(results[0]):,} requests of {day.users:,} users, {day.floods} floods of {day.flood_requests} among them, "
        f"each within two minutes; {day.slots} slots, at most {day.max_waiting} waiting.\n\n" + table(results)
    )
    print(text)
    print(f"\n{time.perf_counter() - started:.0f} s")
    if options.write:
        draw(
            _CHART,
            "Waits over a day, those who flood left out",
            [panel("First come, first served", results[0]), panel("Fair queue", results[1])],
        )
        report.write("queue_day", text, _PAGE)


if __name__ == "__main__":
    main()
