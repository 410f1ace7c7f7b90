"""A running answer as server-sent events: rendered blocks, words for the phase, and the end."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from aiia_platform.generations.live import End, Event, Ping, Reasoning, Status, Text
from aiia_platform.generations.position import Position
from aiia_platform.sse import frame
from aiia_web import words
from aiia_web.markdown import Growing

#: Seconds between two pictures of the text, and how many times its own cost a rendering waits: a fifth of a processor
#: at most for one reader, however long the block is that grows.
FRAME = 0.045
REST = 4
#: Characters from which on a picture is made in a thread, so that other readers and the gateway do not wait for it.
LONG = 4_000


class _Page:
    """What one browser shows of an answer, and what it has to be told next."""

    def __init__(self, position: Position | None, model: str) -> None:
        self._position = position
        self._model = model
        self._growing = Growing()
        self._attempt, self._text, self._reasoning = 0, "", ""
        #: None: it may show anything, so it gets all of it.
        self._shown: list[str] | None = None
        self._shown_reasoning: str | None = None
        self._words = ""

    def take(self, event: Text | Reasoning) -> None:
        self._attempt = event.attempt
        if isinstance(event, Text):
            self._text = self._text[: event.offset] + event.text
        else:
            self._reasoning = self._reasoning[: event.offset] + event.text

    async def frames(self, *, final: bool = False) -> list[str]:
        """The events that bring the browser up to date."""
        if self._growing.unfinished(self._text) < LONG:
            return self._frames(final=final)
        return await asyncio.to_thread(self._frames, final=final)

    def _frames(self, *, final: bool) -> list[str]:
        if self._position and not self._resume(self._position, final=final):
            return []
        changes: list[tuple[str, object]] = []
        if self._reasoning != self._shown_reasoning:
            known = self._shown_reasoning or ""
            fresh = self._shown_reasoning is None or not self._reasoning.startswith(known)
            changes.append(("reasoning", {"text": self._reasoning[0 if fresh else len(known) :], "fresh": fresh}))
            self._shown_reasoning = self._reasoning
        blocks, shown = self._growing.render(self._text, final=final), self._shown or []
        if self._shown is None or blocks != shown:
            changed = [(i, html) for i, html in enumerate(blocks) if i >= len(shown) or html != shown[i]]
            changes.append(("blocks", {"count": len(blocks), "changed": changed}))
            self._shown = blocks
        # Only the last one carries the id: a browser that has it has them all.
        place = Position.of(self._attempt, self._text, self._reasoning)
        return [frame(kind, data, place if i == len(changes) else None) for i, (kind, data) in enumerate(changes, 1)]

    def status(self, detail: dict[str, Any]) -> list[str]:
        now = words.status(detail, self._model)
        if now == self._words:
            return []
        self._words = now
        return [frame("status", {"text": now})]

    def _resume(self, position: Position, *, final: bool) -> bool:
        """Start from what the browser already shows. False while that is more than what is known here."""
        if position.is_ahead(self._attempt, self._text) and not final:
            return False
        if seen := position.seen(self._text, self._reasoning):
            self._shown, self._shown_reasoning = self._growing.render(seen[0]), seen[1]
        self._position = None
        return True


async def stream(
    events: AsyncIterator[Event],
    *,
    model: str,
    position: Position | None,
    finish: Callable[[], Awaitable[dict[str, Any]]],
) -> AsyncGenerator[str]:
    """The events of a generation as server-sent events, from `position` on.

    The first text goes out at once, then at most one picture per `FRAME` seconds. `finish` gives the data of the last
    event, `done`.
    """
    page = _Page(position, model)
    next_frame = 0.0
    dirty = False
    yield "retry: 1000\n\n"
    async with aclosing(_Ahead(events)) as ahead:
        while True:
            event = await ahead.next(next_frame if dirty else None)
            now = time.monotonic()
            match event:
                case Text() | Reasoning():
                    page.take(event)
                    dirty = True
                case Status():
                    for part in page.status(event.detail):
                        yield part
                case Ping():
                    yield frame("ping", {})
                case End():
                    for part in await page.frames(final=True):
                        yield part
                    yield frame("done", await finish())
                    return
            if dirty and now >= next_frame:
                for part in await page.frames():
                    yield part
                cost = time.monotonic() - now
                dirty, next_frame = False, now + max(FRAME, REST * cost)


class _Ahead:
    """Reads an iterator one item ahead, so that waiting for the next one can have a deadline without losing it."""

    def __init__(self, source: AsyncIterator[Event]) -> None:
        self._source = source
        self._next: asyncio.Future[Event] | None = None

    async def next(self, deadline: float | None) -> Event | None:
        """The next item, or None when the deadline (of the monotonic clock) passes first."""
        self._next = self._next or asyncio.ensure_future(anext(self._source))
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        done, _ = await asyncio.wait({self._next}, timeout=wait)
        if not done:
            return None
        item, self._next = self._next, None
        return item.result()

    async def aclose(self) -> None:
        if self._next:
            self._next.cancel()
            await asyncio.wait({self._next})
        if close := getattr(self._source, "aclose", None):
            await close()
