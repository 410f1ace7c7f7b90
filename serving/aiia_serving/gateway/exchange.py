"""One request for text: its turn, the model's stream relayed or assembled, another try while that is safe."""

import asyncio
import time
from typing import Any

import aiohttp

from aiia_serving.gateway.assemble import Assembler
from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.errors import ApiError, overloaded, unavailable, upstream_failed
from aiia_serving.gateway.registry import Registry
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.requests import ChatRequest, GenerationRequest, model_payload
from aiia_serving.gateway.settings import GatewaySettings
from aiia_serving.gateway.sse import FrameBuffer, FrameTooLongError, data_of, has_error, is_done, without_done
from aiia_serving.gateway.turn import Status, Turn
from aiia_serving.gateway.upstream import UpstreamLostError, open_stream
from aiia_serving.queue import Queue, QueueFullError, Ticket, Work
from aiia_serving.state import ModelState

# A slow model's headers come late; until then the caller should see that its request is with the model.
_SAY_RUNNING_AFTER_S = 1
# After [DONE] only the end of the body is missing, which lets the connection be used again.
_TRAILER_S = 1
_BACKOFF_S = (0.1, 0.25, 0.5, 1.0, 2.0)


class Exchange:
    """Serves one parsed request. Cancelling ``serve`` closes the model's connection, which ends its work there."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        registry: Registry,
        queue: Queue,
        settings: GatewaySettings,
        caller: Caller,
        request: GenerationRequest,
        reply: Reply,
        request_id: str,
    ) -> None:
        self._session = session
        self._registry = registry
        self._queue = queue
        self._settings = settings
        self._caller = caller
        self._request = request
        self._reply = reply
        self._request_id = request_id
        self._chat = isinstance(request, ChatRequest)
        self._path = "/chat/completions" if self._chat else "/completions"
        self._answering = False
        self._running_said = False
        self.first_byte_at: float | None = None

    async def serve(self) -> None:
        """Answers the caller completely. Raises ``ApiError``, also after the stream has begun."""
        model_id = self._request.model
        await self._registry.get(model_id)
        turn = Turn(self._registry, model_id, self._report, self._settings.gateway_hold_s)
        work = Work(model_id, self._caller.user, self._caller.work_class, self._request.estimated_cost())
        try:
            ticket = self._queue.enter(work, turn.wake)
        except QueueFullError as full:
            raise overloaded(
                f"Too many requests wait for the model '{model_id}'.",
                code="queue_full",
                retry_after_s=full.retry_after_s,
            ) from full
        try:
            with self._registry.listen(turn.wake):
                await self._try_until_answered(turn, ticket)
        finally:
            ticket.release()

    async def _try_until_answered(self, turn: Turn, ticket: Ticket) -> None:
        give_up_at: float | None = None
        attempt = 0
        while True:
            asked_at = time.monotonic()
            model = await turn.come(ticket)
            if give_up_at is not None:
                # The time a model was not ready in between counts against the hold time alone.
                give_up_at += time.monotonic() - asked_at
            try:
                return await self._attempt(model)
            except UpstreamLostError as lost:
                if self._answering:
                    raise _interrupted() from lost
                now = time.monotonic()
                if give_up_at is None:
                    give_up_at = now + self._settings.gateway_retry_s
                elif now >= give_up_at:
                    raise unavailable(
                        f"The model '{model.id}' does not answer: {lost}.", code="upstream_lost"
                    ) from lost
            self._running_said = False
            await turn.pause(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
            attempt += 1

    async def _attempt(self, model: ModelState) -> None:
        stream = bool(self._request.stream)
        wants_usage = self._request.stream_options is not None and bool(self._request.stream_options.include_usage)
        payload = model_payload(
            self._request,
            model=model.upstream.model if model.upstream else model.id,
            with_usage=wants_usage or not stream,
            with_token_ids=model.exact_continuation,
        )
        response = await self._open(model, payload)
        try:
            if stream:
                await self._relay(response)
            else:
                await self._assemble(response)
        finally:
            # Closes the connection unless the body was read to its end; the model sees that and stops.
            response.release()

    async def _open(self, model: ModelState, payload: dict[str, Any]) -> aiohttp.ClientResponse:
        opening = open_stream(self._session, model, self._path, payload, self._request_id)
        if not (self._request.stream and self._caller.events):
            async with asyncio.timeout(self._settings.gateway_stall_s):
                return await opening
        task = asyncio.create_task(opening)
        try:
            await asyncio.wait({task}, timeout=_SAY_RUNNING_AFTER_S)
            if not task.done():
                await self._say_running()
            async with asyncio.timeout(self._settings.gateway_stall_s):
                response = await task
        except BaseException:
            task.cancel()
            raise
        await self._say_running()
        return response

    async def _relay(self, response: aiohttp.ClientResponse) -> None:
        reply, read, buffer = self._reply, response.content.readany, FrameBuffer()
        stall_s = self._settings.gateway_stall_s
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(stall_s) as stall:
                # The timer is moved at most ten times in its length: moving it costs as much as a small frame.
                move_at = clock() + stall_s / 10
                while chunk := await read():
                    frames = buffer.feed(chunk)
                    if not frames:
                        continue
                    if not self._answering:
                        self._answering = True
                        self.first_byte_at = time.monotonic()
                        await reply.start_stream()
                    if has_error(frames):
                        return await reply.end_stream(without_done(frames))
                    await reply.write(frames)
                    if is_done(frames):
                        await reply.end_stream()
                        return await _read_to_end(response)
                    now = clock()
                    if now > move_at:
                        stall.reschedule(now + stall_s)
                        move_at = now + stall_s / 10
        except TimeoutError:
            raise _stalled() from None
        except (aiohttp.ClientError, OSError, FrameTooLongError) as error:
            raise UpstreamLostError(f"{type(error).__name__} in the model's stream") from error
        raise UpstreamLostError("the stream ended without its end mark")

    async def _assemble(self, response: aiohttp.ClientResponse) -> None:
        assembler, buffer, done = Assembler(self._chat), FrameBuffer(), False
        try:
            while not done:
                async with asyncio.timeout(self._settings.gateway_stall_s):
                    chunk = await response.content.readany()
                if not chunk:
                    break
                for data in data_of(buffer.feed(chunk)):
                    if data == b"[DONE]":
                        done = True
                        break
                    assembler.feed(data)
                    self.first_byte_at = self.first_byte_at or time.monotonic()
        except TimeoutError:
            raise _stalled() from None
        except (aiohttp.ClientError, OSError, FrameTooLongError) as error:
            raise UpstreamLostError(f"{type(error).__name__} in the model's stream") from error
        if not done:
            raise UpstreamLostError("the stream ended without its end mark")
        await self._reply.json(assembler.result())
        await _read_to_end(response)

    async def _report(self, status: Status) -> None:
        if not self._request.stream:
            return
        await self._reply.start_stream()
        await self._reply.write(status.event() if self._caller.events else status.comment())

    async def _say_running(self) -> None:
        if not self._running_said:
            self._running_said = True
            await self._report(Status.running())


async def _read_to_end(response: aiohttp.ClientResponse) -> None:
    try:
        async with asyncio.timeout(_TRAILER_S):
            while await response.content.readany():
                pass
    except (aiohttp.ClientError, OSError, TimeoutError):
        response.close()


def _interrupted() -> ApiError:
    return upstream_failed("The model's stream broke off before its end.", code="stream_interrupted")


def _stalled() -> ApiError:
    return ApiError(504, "The model has been silent for too long.", kind="server_error", code="stream_stalled")
