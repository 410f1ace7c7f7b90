"""An answer in Anthropic's words."""

import json
from typing import Any

from starlette.types import Send

from aiia_serving.gateway.errors import ApiError, upstream_failed
from aiia_serving.gateway.protocols.translated import Part, TranslatedReply
from aiia_serving.gateway.turn import Status

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}


class MessagesReply(TranslatedReply):
    """``model`` must be set before the answer begins."""

    def __init__(self, send: Send, request_id: str) -> None:
        super().__init__(send, request_id)
        self.model = ""

    @property
    def _id_headers(self) -> list[tuple[bytes, bytes]]:
        return [*super()._id_headers, (b"request-id", super()._id_headers[0][1])]

    async def say(self, status: Status, *, events: bool) -> None:
        if events:
            await super().say(status, events=True)
            return
        await self.start_stream()
        await self.write(b'event: ping\ndata: {"type":"ping"}\n\n')

    def begin(self) -> None:
        self.event({"type": "message_start", "message": self._message([], None)})

    def start(self, part: Part) -> None:
        block = {
            "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
            "text": {"type": "text", "text": ""},
            "call": {"type": "tool_use", "id": part.call_id, "name": part.name, "input": {}},
        }[part.kind]
        self.event({"type": "content_block_start", "index": part.position, "content_block": block})

    def grow(self, part: Part, text: str) -> None:
        delta = {
            "reasoning": {"type": "thinking_delta", "thinking": text},
            "text": {"type": "text_delta", "text": text},
            "call": {"type": "input_json_delta", "partial_json": text},
        }[part.kind]
        self.event({"type": "content_block_delta", "index": part.position, "delta": delta})

    def stop(self, part: Part) -> None:
        self.event({"type": "content_block_stop", "index": part.position})

    def end(self) -> None:
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence()}
        self.event({"type": "message_delta", "delta": delta, "usage": self._usage()})
        self.event({"type": "message_stop"})

    def fail(self, error: ApiError) -> None:
        self.event(self._error(error))

    def whole(self) -> dict[str, Any]:
        return self._message([self._block(part) for part in self.parts], self._stop_reason())

    def error_body(self, error: ApiError) -> bytes:
        return json.dumps(self._error(error), ensure_ascii=False).encode()

    def _error(self, error: ApiError) -> dict[str, Any]:
        kind = _ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        told = {"type": kind, "message": error.error["message"]}
        return {"type": "error", "error": told, "request_id": self.request_id}

    def _message(self, content: list[dict[str, Any]], stop_reason: str | None) -> dict[str, Any]:
        return {
            "id": f"msg_{self.request_id}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": self._stop_sequence(),
            "usage": self._usage(),
        }

    def _block(self, part: Part) -> dict[str, Any]:
        if part.kind == "reasoning":
            return {"type": "thinking", "thinking": part.text, "signature": ""}
        if part.kind == "text":
            return {"type": "text", "text": part.text}
        return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": self._input(part)}

    def _input(self, part: Part) -> dict[str, Any]:
        try:
            given = json.loads(part.text or "{}")
        except ValueError:
            given = None
        if isinstance(given, dict):
            return given
        if self.finish_reason == "length":
            # The stop reason says that it is not all there.
            return {}
        raise upstream_failed(f"The model called '{part.name}' with arguments that are no JSON object.")

    def _stop_reason(self) -> str:
        if self.finish_reason in _STOP_REASONS:
            return _STOP_REASONS[self.finish_reason]
        if any(part.kind == "call" for part in self.parts):
            return "tool_use"
        return "end_turn" if self.stop_string is None else "stop_sequence"

    def _stop_sequence(self) -> str | None:
        return self.stop_string if self.finish_reason == "stop" else None

    def _usage(self) -> dict[str, int]:
        cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return {
            "input_tokens": (self.usage.get("prompt_tokens") or 0) - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self.usage.get("completion_tokens") or 0,
        }
