"""An answer in the words of OpenAI's responses."""

import time
from typing import Any

from starlette.types import Send

from aiia_serving.gateway.errors import ApiError
from aiia_serving.gateway.protocols.translated import Part, TranslatedReply

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ID_PREFIXES = {"reasoning": "rs", "text": "msg", "call": "fc"}


class ResponsesReply(TranslatedReply):
    """``asked`` is what a response says of its request; it must be set before the answer begins."""

    def __init__(self, send: Send, request_id: str) -> None:
        super().__init__(send, request_id)
        self.asked: dict[str, Any] = {}
        self._created_at = int(time.time())
        self._sequence = 0

    def begin(self) -> None:
        self._say("created", response=self._response("in_progress"))
        self._say("in_progress", response=self._response("in_progress"))

    def start(self, part: Part) -> None:
        empty = {**self._item(part), "status": "in_progress"}
        if part.kind != "call":
            empty["content"] = []
        self._say("output_item.added", output_index=part.position, item=empty)
        if part.kind != "call":
            self._say("content_part.added", **self._where(part), part=_content(part))

    def grow(self, part: Part, text: str) -> None:
        if part.kind == "text":
            self._say("output_text.delta", **self._where(part), delta=text, logprobs=[])
        elif part.kind == "reasoning":
            self._say("reasoning_text.delta", **self._where(part), delta=text)
        else:
            self._say("function_call_arguments.delta", **self._where(part), delta=text)

    def stop(self, part: Part) -> None:
        if part.kind == "call":
            done = {"name": part.name, "arguments": part.text}
            self._say("function_call_arguments.done", **self._where(part), **done)
        else:
            if part.kind == "text":
                self._say("output_text.done", **self._where(part), text=part.text, logprobs=[])
            else:
                self._say("reasoning_text.done", **self._where(part), text=part.text)
            self._say("content_part.done", **self._where(part), part=_content(part))
        self._say("output_item.done", output_index=part.position, item=self._item(part))

    def end(self) -> None:
        response = self.whole()
        self._say(response["status"], response=response)

    def fail(self, error: ApiError) -> None:
        if not self._sequence:
            self.begin()
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        if error.status in (400, 413, 422):
            code = "invalid_prompt"
        told = {"code": code, "message": error.error["message"]}
        self._say("failed", response={**self._response("failed"), "error": told})

    def whole(self) -> dict[str, Any]:
        return self._response("incomplete" if self.finish_reason in _INCOMPLETE else "completed")

    def _say(self, event: str, /, **fields: Any) -> None:
        self.event({"type": f"response.{event}", "sequence_number": self._sequence, **fields})
        self._sequence += 1

    def _id(self, part: Part) -> str:
        return f"{_ID_PREFIXES[part.kind]}_{self.request_id}_{part.position}"

    def _where(self, part: Part) -> dict[str, Any]:
        where = {"item_id": self._id(part), "output_index": part.position}
        return where if part.kind == "call" else {**where, "content_index": 0}

    def _item(self, part: Part) -> dict[str, Any]:
        # Only what was being said when the limit came is not whole.
        cut = self.finish_reason in _INCOMPLETE and part is self.parts[-1]
        item = {"id": self._id(part), "status": "incomplete" if cut else "completed"}
        if part.kind == "text":
            return {**item, "type": "message", "role": "assistant", "content": [_content(part)]}
        if part.kind == "reasoning":
            return {**item, "type": "reasoning", "summary": [], "content": [_content(part)]}
        call = {"call_id": part.call_id, "name": part.name, "arguments": part.text}
        return {**item, "type": "function_call", **call}

    def _response(self, status: str) -> dict[str, Any]:
        why = _INCOMPLETE.get(self.finish_reason or "") if status == "incomplete" else None
        return {
            "id": f"resp_{self.request_id}",
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": why} if why else None,
            "previous_response_id": None,
            # Nothing is kept here to be fetched, or gone on with, later.
            "store": False,
            **self.asked,
            "output": [] if status == "in_progress" else [self._item(part) for part in self.parts],
            "usage": self._usage() if status in ("completed", "incomplete") else None,
        }

    def _usage(self) -> dict[str, Any]:
        prompt, answered = self.usage.get("prompt_tokens") or 0, self.usage.get("completion_tokens") or 0
        cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        thought = (self.usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": prompt + answered,
        }


def _content(part: Part) -> dict[str, Any]:
    if part.kind == "reasoning":
        return {"type": "reasoning_text", "text": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}
