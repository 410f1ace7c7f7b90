"""A model's answer in another protocol than its own: parts that begin, grow and end one after the other."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.types import Send

from aiia_serving.gateway.errors import ApiError
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.sse import data_of


@dataclass
class Part:
    """A piece of an answer. ``call_id`` and ``name`` are those of a call, whose text is its arguments as JSON."""

    kind: Literal["reasoning", "text", "call"]
    position: int
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    #: Which call of the model's it is.
    index: int | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class TranslatedReply(Reply):
    """Reads the model's frames and calls the methods ``begin`` to ``fail`` below, which add events with ``event``.

    A plain answer is read as a stream of one frame, so that ``whole`` finds the same parts.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        super().__init__(send, request_id)
        self.parts: list[Part] = []
        self.usage: dict[str, Any] = {}
        # Why the answer ended, and the stop string that ended it, in the model's words.
        self.finish_reason: str | None = None
        self.stop_string: str | None = None
        self._open: Part | None = None
        self._begun = False
        self._ended = False
        self._events = bytearray()

    def begin(self) -> None:
        """The answer begins."""
        raise NotImplementedError

    def start(self, part: Part) -> None:
        raise NotImplementedError

    def grow(self, part: Part, text: str) -> None:
        raise NotImplementedError

    def stop(self, part: Part) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """The answer is complete."""
        raise NotImplementedError

    def fail(self, error: ApiError) -> None:
        """The stream ends with an error."""
        raise NotImplementedError

    def whole(self) -> dict[str, Any]:
        """The body of a plain answer."""
        raise NotImplementedError

    def error_body(self, error: ApiError) -> bytes:
        """The body of an answer that is an error."""
        return error.body()

    def event(self, data: dict[str, Any]) -> None:
        """Sends an event; its name is its type."""
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        self._events += f"event: {data['type']}\ndata: {text}\n\n".encode()

    def translate(self, frames: bytes) -> bytes:
        for data in data_of(frames):
            if data == b"[DONE]":
                self._finish()
                continue
            try:
                frame = json.loads(data)
            except ValueError:
                continue
            self._read(frame)
        return self._take_events()

    async def json(self, value: Any) -> None:
        choice = value["choices"][0]
        self._read({**value, "choices": [{**choice, "delta": choice["message"]}]})
        self._finish()
        self._take_events()
        await super().json(self.whole())

    async def error(self, error: ApiError) -> None:
        if not self.streaming:
            await self._whole(error.status, self.error_body(error), error.headers)
            return
        self._break_off(error)
        await self.end_stream(self._take_events())

    def _take_events(self) -> bytes:
        events, self._events = bytes(self._events), bytearray()
        return events

    def _read(self, frame: dict[str, Any]) -> None:
        if self._ended:
            return
        self._begin_once()
        self.usage = frame.get("usage") or self.usage
        for choice in frame.get("choices") or []:
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning") or delta.get("reasoning_content"):
                self._add("reasoning", thought)
            if text := delta.get("content") or delta.get("refusal"):
                self._add("text", text)
            for call in delta.get("tool_calls") or []:
                self._add_to_call(call)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if isinstance(choice.get("stop_reason"), str):
                self.stop_string = choice["stop_reason"]

    def _begin_once(self) -> None:
        if not self._begun:
            self._begun = True
            self.begin()

    def _add(self, kind: Literal["reasoning", "text"], text: str) -> None:
        part = self._open
        if part is None or part.kind != kind:
            part = self._start(Part(kind, len(self.parts)))
        part.pieces.append(text)
        self.grow(part, text)

    def _add_to_call(self, delta: dict[str, Any]) -> None:
        part, index, function = self._open, delta.get("index"), delta.get("function") or {}
        goes_on = part is not None and part.kind == "call" and part.index == index
        if index is None and delta.get("id"):
            # Of a server that numbers none, each call comes whole or begins with its id.
            goes_on = False
        if part is None or not goes_on:
            call_id = delta.get("id") or f"call_{self.request_id}_{len(self.parts)}"
            part = self._start(Part("call", len(self.parts), call_id, function.get("name") or "", index=index))
        if arguments := function.get("arguments"):
            part.pieces.append(arguments)
            self.grow(part, arguments)

    def _start(self, part: Part) -> Part:
        self._stop_open()
        self.parts.append(part)
        self._open = part
        self.start(part)
        return part

    def _stop_open(self) -> None:
        if self._open is not None:
            self.stop(self._open)
            self._open = None

    def _finish(self) -> None:
        if not self._ended:
            self._ended = True
            self._begin_once()
            self._stop_open()
            self.end()

    def _break_off(self, error: ApiError) -> None:
        if not self._ended:
            self._ended = True
            self.fail(error)
