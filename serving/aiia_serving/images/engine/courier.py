"""What happens in a run's thread, brought to the event loop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from aiia_serving.images.engine.run import News


class Courier:
    """Brings news in their order: the first at once, those of the next moments together.

    Each time the loop wakes it takes the interpreter from the thread that computes, for about as long as a small
    model's step takes on a GPU. ``send`` is for any thread; the rest, and ``hear``, belong to the loop.
    """

    def __init__(self, hear: Callable[[News], None], pause_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._hear = hear
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._bag: list[News] = []
        self._under_way = False

    def send(self, news: News) -> None:
        with self._lock:
            self._bag.append(news)
            if self._under_way:
                return
            self._under_way = True
        self.call(self._go)

    def call(self, do: Callable[..., None], *arguments: Any) -> None:
        """Has the loop do something soon, from any thread."""
        # The loop is gone when the replica ends.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(do, *arguments)

    def deliver(self) -> None:
        """All that was sent, now."""
        with self._lock:
            bag, self._bag = self._bag, []
        for news in bag:
            self._hear(news)

    def _go(self) -> None:
        with self._lock:
            self._under_way = bool(self._bag)
        if self._under_way:
            self.deliver()
            self._loop.call_later(self._pause_s, self._go)
