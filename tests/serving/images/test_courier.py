"""News of a thread reach the loop in their order: the first at once, what follows together."""

import asyncio

import pytest

from aiia_serving.images.engine.courier import Courier
from aiia_serving.images.engine.run import News, Step

pytestmark = pytest.mark.unit

_NEVER_S = 3600


def _step(number: int) -> Step:
    return Step(number, None)


class _Ear:
    def __init__(self) -> None:
        self.heard: list[News] = []
        self._changed = asyncio.Event()

    def __call__(self, news: News) -> None:
        self.heard.append(news)
        self._changed.set()

    async def until(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.heard) < number:
                self._changed.clear()
                await self._changed.wait()


async def test_the_first_comes_at_once_and_the_rest_waits_for_the_end() -> None:
    ear = _Ear()
    courier = Courier(ear, _NEVER_S)
    await asyncio.to_thread(courier.send, _step(1))
    await ear.until(1)
    for number in (2, 3):
        await asyncio.to_thread(courier.send, _step(number))
    assert ear.heard == [_step(1)]
    courier.deliver()
    assert ear.heard == [_step(1), _step(2), _step(3)]


async def test_what_comes_in_a_pause_comes_after_it_and_later_news_at_once_again() -> None:
    ear = _Ear()
    courier = Courier(ear, 0.01)

    def work() -> None:
        for number in range(1, 1001):
            courier.send(_step(number))

    await asyncio.to_thread(work)
    await ear.until(1000)
    await asyncio.to_thread(courier.send, _step(1001))
    await ear.until(1001)
    assert ear.heard == [_step(number) for number in range(1, 1002)]
