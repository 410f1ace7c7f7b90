"""The hot path: a model's frames to the caller, without waking a task for each."""

import asyncio
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any

from starlette.types import Message

from aiia_serving.gateway.errors import stalled, upstream_failed
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.sse import FrameBuffer, FrameTooLongError, has_error, is_done, without_done
from aiia_serving.gateway.upstream import UpstreamLostError
from aiia_serving.gateway.wire import Response, WireError


class Relay:
    """One stream on its way through.

    An ASGI server's ``send`` returns at once unless the caller reads too slowly, so it is called right where the bytes
    arrive. When it does not return, a task finishes it, and the model's connection is not read from meanwhile.
    """

    def __init__(self, response: Response, reply: Reply, stall_s: float, on_first_byte: Callable[[], None]) -> None:
        self._response = response
        self._reply = reply
        self._stall_s = stall_s
        self._on_first_byte = on_first_byte
        self._buffer = FrameBuffer()
        self._begun = False
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._arrived_at = loop.time()
        self._finished: asyncio.Future[None] = loop.create_future()
        self._draining: asyncio.Task[None] | None = None
        self._backlog: list[Message] = []

    async def run(self) -> None:
        """Relays to the end mark, or to the model's own error.

        Raises ``UpstreamLostError`` when the stream ends without either before its first byte went out, and
        ``ApiError`` when it does so later or stalls.
        """
        self._response.ended.add_done_callback(self._on_end)
        self._response.attach(self._take)
        try:
            while not self._finished.done():
                await asyncio.wait({self._finished}, timeout=self._arrived_at + self._stall_s - self._clock())
                # A caller who does not read is no fault of the model.
                if self._clock() - self._arrived_at >= self._stall_s and self._draining is None:
                    raise stalled()
            if self._draining is not None:
                await self._draining
            self._finished.result()
        finally:
            self._response.ended.remove_done_callback(self._on_end)
            if self._draining is not None:
                self._draining.cancel()
        await self._reply.end_stream()

    def _take(self, piece: bytes) -> None:
        if self._finished.done():
            return
        self._arrived_at = self._clock()
        try:
            frames = self._buffer.feed(piece)
        except FrameTooLongError:
            self._lose("a frame without an end")
            return
        if not frames:
            return
        if not self._begun:
            self._begun = True
            self._on_first_byte()
            if (start := self._reply.start_message()) is not None:
                self._put(start)
        if has_error(frames):
            self._put({"type": "http.response.body", "body": without_done(frames), "more_body": True})
            self._finished.set_result(None)
            return
        self._put({"type": "http.response.body", "body": frames, "more_body": True})
        if is_done(frames):
            self._finished.set_result(None)

    def _put(self, message: Message) -> None:
        if self._draining is not None:
            self._backlog.append(message)
            return
        sending = iter(self._reply.send(message).__await__())
        try:
            step = next(sending)
        except StopIteration:
            return
        self._response.pause()
        self._draining = asyncio.get_running_loop().create_task(self._drain(step, sending))

    async def _drain(self, step: Any, sending: Iterator[Any]) -> None:
        await _go_on(step, sending)
        while self._backlog:
            await self._reply.send(self._backlog.pop(0))
        self._draining = None
        self._response.resume()

    def _on_end(self, ended: "asyncio.Future[None]") -> None:
        if not self._finished.done():
            error = ended.exception()
            self._lose(str(error) if isinstance(error, WireError) else "the stream ended without its end mark")

    def _lose(self, why: str) -> None:
        if self._begun:
            broken = upstream_failed("The model's stream broke off before its end.", code="stream_interrupted")
            self._finished.set_exception(broken)
        else:
            self._finished.set_exception(UpstreamLostError(why))


@types.coroutine
def _go_on(step: Any, sending: Iterator[Any]) -> Generator[Any, Any, None]:
    """Awaits the rest of an awaitable whose first step has been taken."""
    yield step
    yield from sending
