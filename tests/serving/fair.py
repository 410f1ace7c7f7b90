"""Several gateways' fair queues on one real Redis, with time in the hands of the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiia_serving.queue import Place, QueueLoad, Ticket, Unit, Work, WorkClass
from aiia_serving.queue.fair import RedisQueue

MODEL = "org/m"


class Clock:
    """Seconds, moved by the test alone but for a microsecond at each look: no two requests come at the same time."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


class Gateways:
    """Queues that share a Redis and a clock. Their lease is five seconds of that clock."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        # On a machine that is busy with other things Redis may take its time.
        self._options = {"tick_s": 0.005, "refresh_s": 0.005, "timeout_s": 60, **options}
        self.clock = Clock()
        self.queues: list[RedisQueue] = []
        self.abandoned: list[tuple[Work, float]] = []

    def open(self, url: str = "", **options: Any) -> RedisQueue:
        def abandoned(work: Work, cost: float) -> None:
            self.abandoned.append((work, cost))

        settings = {"clock": self.clock, **self._options, **options}
        queue = RedisQueue(url or self._url, abandoned=abandoned, **settings)
        self.queues.append(queue)
        return queue

    async def close(self) -> None:
        for queue in self.queues:
            await queue.close()

    async def pass_time(self, seconds: float) -> None:
        """Moves the clock while every gateway gives signs of life."""
        while seconds > 0:
            self.clock.now += min(seconds, 2)
            seconds -= 2
            for queue in self.queues:
                await queue.load()

    async def load(self, model: str = MODEL) -> QueueLoad:
        """What Redis holds once every gateway's last word has arrived there."""
        loads = [await queue.load() for queue in self.queues]
        return (await self.queues[0].load()).get(model, QueueLoad()) if loads else QueueLoad()

    async def places(self) -> list[Place]:
        await self.load()
        return await self.queues[0].places()


@asynccontextmanager
async def gateways(url: str, count: int = 1, slots: int = 1, **options: Any) -> AsyncIterator[Gateways]:
    group = Gateways(url, **options)
    try:
        for _ in range(count):
            group.open().set_capacity(MODEL, slots)
        await group.load()
        yield group
    finally:
        await group.close()


async def enter(
    queue: RedisQueue,
    user: str = "u",
    cost: float = 1,
    work_class: WorkClass = "api",
    *,
    notify: Callable[[], None] = lambda: None,
    unit: Unit = "tokens",
    weight: float = 1,
    name: str = "",
    model: str = MODEL,
    deadline_s: float | None = None,
) -> Ticket:
    return await queue.enter(Work(model, user, work_class, cost, unit, weight, name, deadline_s), notify)


async def turn(group: Gateways, running: Ticket, waiting: list[Ticket], cost: float | None = None) -> Ticket:
    """Ends a running ticket, and takes the one that goes instead out of those that wait."""
    running.release(cost)
    await group.load()
    (admitted,) = [ticket for ticket in waiting if ticket.admitted]
    waiting.remove(admitted)
    return admitted


async def until(condition: Callable[[], Any], timeout_s: float = 60) -> None:
    """Waits for what other processes bring about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
