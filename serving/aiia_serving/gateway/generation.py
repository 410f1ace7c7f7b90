"""A request for text: the model's stream relayed or assembled, and continued where it breaks."""

import asyncio
import hashlib
import json
import time
from contextlib import suppress
from typing import Any

from aiia_serving.gateway.assemble import Assembler
from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.continuation import Splice, can_continue, continuation_payload, tokens_left
from aiia_serving.gateway.errors import ApiError, stalled, upstream_failed
from aiia_serving.gateway.exchange import Exchange
from aiia_serving.gateway.relay import Relay, StreamBrokenError
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.requests import ChatRequest, GenerationRequest, model_payload
from aiia_serving.gateway.services import Gateway
from aiia_serving.gateway.sse import DONE_FRAME, FrameBuffer, FrameTooLongError, data_of
from aiia_serving.gateway.transcript import Transcript, Written
from aiia_serving.gateway.turn import Status
from aiia_serving.gateway.upstream import UpstreamLostError, open_stream
from aiia_serving.gateway.usage import Usage
from aiia_serving.gateway.wire import Response, WireError
from aiia_serving.state import ModelState

# A slow model's headers come late; until then the caller should see that its request is with the model.
_SAY_RUNNING_AFTER_S = 1
# After [DONE] only the end of the body is missing, which lets the connection be used again.
_TRAILER_S = 1
# Each starts the time for further tries anew if the answer has got further. It may be what kills the replicas.
_MOST_BREAKS = 8
# Ranks in the model by class, the lowest first, with room between them for how much a user has in flight.
_RANKS = {"interactive": 0, "api": 1000, "batch": 2000}


class Generation(Exchange):
    """Serves a chat or a completion. The reply decides in which protocol the caller hears of it."""

    def __init__(
        self,
        gateway: Gateway,
        caller: Caller,
        reply: Reply,
        usage: Usage,
        request: GenerationRequest,
        deadline_s: float | None = None,
    ) -> None:
        super().__init__(
            gateway,
            caller,
            reply,
            usage,
            estimated_cost=request.estimated_cost(),
            deadline_s=deadline_s,
        )
        self._session = _session(caller, request)
        self.needs = "chat" if isinstance(request, ChatRequest) else "completions"
        self._request = request
        self._chat = isinstance(request, ChatRequest)
        self._wants_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        self._wants_ids = bool(request.return_token_ids)
        self._transcript = Transcript()
        self._written: Written | None = None
        self._usage_reported = False
        self._running_said = False
        self._got_further = False

    async def _attempt(self, model: ModelState) -> None:
        self._running_said = self._got_further = False
        with self._gateway.sessions.name(self._session, model) as name:
            self._headers["X-Session-Id"] = name
            if self._written is not None:
                await self._go_on(model, self._written)
            elif self._request.stream:
                await self._stream(model)
            else:
                await self._answer(model)

    async def _stream(self, model: ModelState) -> None:
        response = await self._open(model, "/chat/completions" if self._chat else "/completions", self._payload(model))
        await self._relay(response, model)

    async def _go_on(self, model: ModelState, written: Written) -> None:
        left = tokens_left(self._request, model, written)
        if left is not None and left <= 0:
            # Only the reason of its end was missing.
            await self._end_by_length(written)
            return
        name = model.upstream.model if model.upstream else model.id
        payload = continuation_payload(self._request, name, written, left or 1_000_000) | self._rank(model)
        response = await self._open(model, "/completions", payload)
        await self._relay(response, model, Splice(written, self._chat, with_ids=True))

    async def _relay(self, response: Response, model: ModelState, splice: Splice | None = None) -> None:
        relay = Relay(
            response,
            self._reply,
            self._transcript,
            self._gateway.settings.gateway_stall_s,
            splice=splice,
            with_usage=self._wants_usage,
            with_ids=self._wants_ids,
            on_first=self._on_first_token,
            on_usage=self._take_usage,
        )
        try:
            await relay.run()
            await _wait_for_end(response)
        except StreamBrokenError as broken:
            before = len(self._written.ids) if self._written else 0
            self._written = self._transcript.read() if self._transcript.is_whole else None
            if self._written is not None and len(self._written.finished) >= (self._request.n or 1):
                # Everything but the end mark was there.
                await self._reply.end_stream(self._reply.translate(DONE_FRAME))
                return
            if self._written is None or not can_continue(self._request, model, self._written):
                raise broken.said or _interrupted() from broken
            self._got_further = len(self._written.ids) > before
            self._transcript = Transcript(self._written)
            self.continuations += 1
            raise UpstreamLostError(str(broken), broken.said) from broken
        finally:
            # Closes the connection unless the body was read to its end; the model sees that and stops.
            response.release()

    async def _end_by_length(self, written: Written) -> None:
        splice = Splice(written, self._chat, self._wants_ids)
        last: dict[str, Any] = {"choices": [{"text": "", "finish_reason": "length"}]}
        frames = splice(b"data: %b\n\n" % json.dumps(last).encode())
        if self._wants_usage:
            usage = {"choices": [], "usage": {"completion_tokens": 0}}
            frames += splice(b"data: %b\n\n" % json.dumps(usage).encode())
        await self._reply.write(self._reply.translate(frames + DONE_FRAME))
        await self._reply.end_stream()

    async def _answer(self, model: ModelState) -> None:
        response = await self._open(model, "/chat/completions" if self._chat else "/completions", self._payload(model))
        try:
            await self._assemble(response)
        finally:
            response.release()

    async def _assemble(self, response: Response) -> None:
        assembler, buffer, pieces, done = Assembler(self._chat), FrameBuffer(), response.pieces(), False
        self._transcript = Transcript()
        try:
            while not done:
                async with asyncio.timeout(self._gateway.settings.gateway_stall_s):
                    piece = await anext(pieces, None)
                if piece is None:
                    break
                frames = buffer.feed(piece)
                self._transcript.add(frames)
                for data in data_of(frames):
                    if data == b"[DONE]":
                        done = True
                        break
                    assembler.feed(data)
                    self._on_first_token()
        except TimeoutError:
            raise stalled() from None
        except (WireError, FrameTooLongError) as error:
            raise UpstreamLostError(f"{error or type(error).__name__} in the model's stream") from error
        if not done:
            raise UpstreamLostError("the stream ended without its end mark")
        result = assembler.result()
        if result["usage"]:
            self._take_usage(result["usage"])
        if not self._wants_ids:
            _drop_ids(result)
        await self._reply.json(result)
        await _wait_for_end(response)

    async def _open(self, model: ModelState, path: str, payload: dict[str, Any]) -> Response:
        opening = open_stream(self._gateway.client, model, path, payload, self._headers)
        stall_s = self._gateway.settings.gateway_stall_s
        try:
            if not (self._request.stream and self._caller.events):
                async with asyncio.timeout(stall_s):
                    return await opening
            return await self._open_telling(opening, stall_s)
        except TimeoutError:
            raise stalled() from None

    async def _open_telling(self, opening: Any, stall_s: float) -> Response:
        task: asyncio.Task[Response] = asyncio.create_task(opening)
        try:
            await asyncio.wait({task}, timeout=_SAY_RUNNING_AFTER_S)
            if not task.done():
                await self._say_running()
            async with asyncio.timeout(stall_s):
                response = await task
            await self._say_running()
        except BaseException:
            if not task.cancel() and not task.cancelled() and task.exception() is None:
                task.result().release()
            raise
        return response

    def _payload(self, model: ModelState) -> dict[str, Any]:
        name = model.upstream.model if model.upstream else model.id
        return model_payload(self._request, model=name, with_token_ids=model.exact_continuation) | self._rank(model)

    def _rank(self, model: ModelState) -> dict[str, Any]:
        if "priority" not in model.capabilities or self._ticket is None:
            return {}
        return {"priority": _RANKS[self._caller.work_class] + min(self._ticket.beside, 999)}

    def _on_first_token(self) -> None:
        if self.usage.first_token_at is None:
            self.usage.first_token_at = time.monotonic()

    def _take_usage(self, reported: dict[str, Any]) -> None:
        self._usage_reported = True
        self.usage.take(reported)

    def _cost_so_far(self) -> float:
        return self._request.estimated_prompt_tokens() + 2.0 * self._transcript.pieces

    def _settle(self) -> None:
        if self._usage_reported or self.usage.admitted_at is None:
            return
        written = self._transcript.read()
        # A model without token ids sends about a token per frame.
        self.usage.completion_tokens = len(written.ids) or written.frames
        self.usage.prompt_tokens = len(written.prompt_ids) or self._request.estimated_prompt_tokens()

    def _starts_over(self) -> bool:
        return self._got_further and self.continuations <= _MOST_BREAKS

    def _lost_for_good(self, model: ModelState, lost: UpstreamLostError) -> ApiError:
        return _interrupted() if self._written is not None else super()._lost_for_good(model, lost)

    async def _report(self, status: Status) -> None:
        if self._request.stream:
            await self._reply.say(status, events=self._caller.events)

    async def _say_running(self) -> None:
        if not self._running_said:
            self._running_said = True
            await self._report(Status.running())


def _interrupted() -> ApiError:
    return upstream_failed("The model's stream broke off before its end.", code="stream_interrupted")


def _session(caller: Caller, request: GenerationRequest) -> str:
    """The same for all requests of one conversation, so that they can go to the replica that has its prefix cached."""
    start = request.conversation_start()
    return hashlib.sha256(f"{caller.user}\0{start}".encode()).hexdigest()[:32]


def _drop_ids(result: dict[str, Any]) -> None:
    result.pop("prompt_token_ids", None)
    for choice in result["choices"]:
        choice.pop("token_ids", None)
        choice.pop("prompt_token_ids", None)


async def _wait_for_end(response: Response) -> None:
    with suppress(WireError, TimeoutError):
        await asyncio.wait_for(asyncio.shield(response.ended), _TRAILER_S)
