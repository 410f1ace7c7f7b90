"""One request for text: its turn, the model's stream relayed or assembled, another try while that is safe."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from aiia_serving.gateway.assemble import Assembler
from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.errors import overloaded, stalled, unavailable
from aiia_serving.gateway.registry import Registry
from aiia_serving.gateway.relay import Relay
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.requests import ChatRequest, GenerationRequest, model_payload
from aiia_serving.gateway.settings import GatewaySettings
from aiia_serving.gateway.sse import FrameBuffer, FrameTooLongError, data_of
from aiia_serving.gateway.turn import Status, Turn
from aiia_serving.gateway.upstream import UpstreamLostError, open_stream
from aiia_serving.gateway.wire import Client, Response, WireError
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
        client: Client,
        registry: Registry,
        queue: Queue,
        settings: GatewaySettings,
        caller: Caller,
        request: GenerationRequest,
        reply: Reply,
        request_id: str,
    ) -> None:
        self._client = client
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
        try:
            response = await self._open(model, payload)
        except TimeoutError:
            raise stalled() from None
        try:
            if stream:
                await self._relay(response)
            else:
                await self._assemble(response)
        finally:
            # Closes the connection unless the body was read to its end; the model sees that and stops.
            response.release()

    async def _open(self, model: ModelState, payload: dict[str, Any]) -> Response:
        opening = open_stream(self._client, model, self._path, payload, self._request_id)
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
            await self._say_running()
        except BaseException:
            if not task.cancel() and not task.cancelled() and task.exception() is None:
                task.result().release()
            raise
        return response

    async def _relay(self, response: Response) -> None:
        await Relay(response, self._reply, self._settings.gateway_stall_s, self._on_first_byte).run()
        await _wait_for_end(response)

    async def _assemble(self, response: Response) -> None:
        assembler, buffer, pieces, done = Assembler(self._chat), FrameBuffer(), response.pieces(), False
        try:
            while not done:
                async with asyncio.timeout(self._settings.gateway_stall_s):
                    piece = await anext(pieces, None)
                if piece is None:
                    break
                for data in data_of(buffer.feed(piece)):
                    if data == b"[DONE]":
                        done = True
                        break
                    assembler.feed(data)
                    self.first_byte_at = self.first_byte_at or time.monotonic()
        except TimeoutError:
            raise stalled() from None
        except (WireError, FrameTooLongError) as error:
            raise UpstreamLostError(f"{error or type(error).__name__} in the model's stream") from error
        if not done:
            raise UpstreamLostError("the stream ended without its end mark")
        await self._reply.json(assembler.result())
        await _wait_for_end(response)

    def _on_first_byte(self) -> None:
        self._answering = True
        self.first_byte_at = time.monotonic()

    async def _report(self, status: Status) -> None:
        if not self._request.stream:
            return
        await self._reply.start_stream()
        await self._reply.write(status.event() if self._caller.events else status.comment())

    async def _say_running(self) -> None:
        if not self._running_said:
            self._running_said = True
            await self._report(Status.running())


async def _wait_for_end(response: Response) -> None:
    with suppress(WireError, TimeoutError):
        await asyncio.wait_for(asyncio.shield(response.ended), _TRAILER_S)
