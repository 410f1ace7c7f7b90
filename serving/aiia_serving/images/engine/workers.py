"""Threads for batches, which are kept: a new one has to make first what the computing libraries have per thread."""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Outcome = TypeVar("Outcome")


class Workers:
    """As many threads as have work at a time. Belongs to one thread; they end with the process."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Callable[[], None]]] = []

    def do(self, work: Callable[[], Outcome], then: Callable[[Outcome], None]) -> None:
        """``work`` is done in the thread that worked last of those that are idle, and ``then`` called there."""
        inbox = self._idle.pop() if self._idle else self._new()

        def task() -> None:
            outcome = work()
            # Before anyone hears of it, who may have more to do.
            self._idle.append(inbox)
            then(outcome)

        inbox.put(task)

    def _new(self) -> "queue.SimpleQueue[Callable[[], None]]":
        inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

        def loop() -> None:
            while True:
                inbox.get()()

        threading.Thread(target=loop, name="images", daemon=True).start()
        return inbox
