"""The hot path: a model's frames to the caller, without waking a task for each."""

import asyncio
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any

from starlette.types import Message

from aiia_serving.gateway.assemble import model_failure
from aiia_serving.gateway.errors import ApiError, stalled
from aiia_serving.gateway.reply import CallerLeftError, Reply
from aiia_serving.gateway.sse import (
    FrameBuffer,
    FrameTooLongError,
    has_error,
    has_usage,
    is_done,
    split_error,
    take_usage,
    without_ids,
)
from aiia_serving.gateway.transcript import Transcript
from aiia_serving.gateway.upstream import UpstreamLostError
from aiia_serving.gateway.wire import Response, WireError


class StreamBrokenError(Exception):
    """The stream ended without its end mark after a part of it was handed on. ``said`` is the model's own error."""

    def __init__(self, why: str, said: ApiError | None = None) -> None:
        super().__init__(why)
        self.said = said


class Relay:
    """One stream on its way through.

    An ASGI server's ``send`` returns at once unless the caller reads too slowly, so it is called right where the bytes
    arrive. When it does not return, a task finishes it, and the model's connection is not read from meanwhile.
    """

    def __init__(
        self,
        response: Response,
        reply: Reply,
        transcript: Transcript,
        stall_s: float,
        *,
        splice: Callable[[bytes], bytes] | None,
        with_usage: bool,
        with_ids: bool,
        on_first: Callable[[], None],
        on_usage: Callable[[dict[str, Any]], None],
    ) -> None:
        """``splice`` changes frames before anything else; usage and token ids are left out unless asked for."""
        self._response = response
        self._reply = reply
        self._transcript = transcript
        self._stall_s = stall_s
        self._splice = splice
        self._with_usage = with_usage
        self._with_ids = with_ids
        self._on_first = on_first
        self._on_usage = on_usage
        self._buffer = FrameBuffer()
        self._begun = False
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._arrived_at = loop.time()
        self._finished: asyncio.Future[None] = loop.create_future()
        self._draining: asyncio.Task[None] | None = None
        self._backlog: list[Message] = []

    async def run(self) -> None:
        """Relays to the end mark.

        Raises ``UpstreamLostError`` when the stream ends without it, or the model's engine fails, before the first byte
        went out, ``StreamBrokenError`` when that happens later, ``ApiError`` when it stalls or the model refuses, and
        ``CallerLeftError`` when the caller reads nothing for as long.
        """
        self._response.ended.add_done_callback(self._on_end)
        self._response.attach(self._take)
        try:
            while self._draining is not None or not self._finished.done():
                if self._draining is not None:
                    await self._wait_for_caller(self._draining)
                    continue
                await asyncio.wait({self._finished}, timeout=self._arrived_at + self._stall_s - self._clock())
                if self._clock() - self._arrived_at >= self._stall_s and self._draining is None:
                    raise stalled()
            self._finished.result()
        finally:
            self._response.ended.remove_done_callback(self._on_end)
            if self._draining is not None:
                self._draining.cancel()
        await self._reply.end_stream()

    async def _wait_for_caller(self, draining: "asyncio.Task[None]") -> None:
        # A caller who does not read is no fault of the model, but must not keep its place for ever.
        await asyncio.wait({draining}, timeout=self._stall_s)
        if not draining.done():
            raise CallerLeftError
        draining.result()

    def _take(self, piece: bytes) -> None:
        if self._finished.done():
            return
        self._arrived_at = self._clock()
        error = usage = None
        try:
            frames = self._buffer.feed(piece)
            if not frames:
                return
            if self._splice is not None:
                frames = self._splice(frames)
            if has_error(frames):
                frames, error = split_error(frames)
            written = frames
            if has_usage(frames):
                frames, usage = take_usage(frames, keep=self._with_usage)
        except FrameTooLongError:
            self._lose("a frame without an end")
            return
        except ValueError:
            self._lose("a frame that is not JSON")
            return
        if written:
            self._hand_on(written, frames)
        if usage is not None:
            self._on_usage(usage)
        if error is not None:
            self._fail(error)
        elif is_done(written):
            self._finished.set_result(None)

    def _hand_on(self, written: bytes, frames: bytes) -> None:
        """``frames`` are what is shown of those that were ``written``."""
        self._transcript.add(written)
        if not self._with_ids:
            frames = without_ids(frames)
        frames = self._reply.translate(frames)
        if not self._begun:
            self._begun = True
            self._on_first()
            if (start := self._reply.start_message()) is not None:
                self._put(start)
        if frames:
            self._put({"type": "http.response.body", "body": frames, "more_body": True})

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
        self._arrived_at = self._clock()
        self._response.resume()

    def _on_end(self, ended: "asyncio.Future[None]") -> None:
        if not self._finished.done():
            error = ended.exception()
            self._lose(str(error) if isinstance(error, WireError) else "the stream ended without its end mark")

    def _fail(self, error: Any) -> None:
        failure = model_failure(error)
        if isinstance(failure, UpstreamLostError):
            self._lose(str(failure), failure.said)
        else:
            self._finished.set_exception(failure)

    def _lose(self, why: str, said: ApiError | None = None) -> None:
        kind = StreamBrokenError if self._begun else UpstreamLostError
        self._finished.set_exception(kind(why, said))


@types.coroutine
def _go_on(step: Any, sending: Iterator[Any]) -> Generator[Any, Any, None]:
    """Awaits the rest of an awaitable whose first step has been taken."""
    yield step
    yield from sending
