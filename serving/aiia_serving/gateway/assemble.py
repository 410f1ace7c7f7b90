"""A plain answer put together from a model's stream."""

import json
from typing import Any

from aiia_serving.gateway.errors import ApiError, upstream_failed
from aiia_serving.gateway.upstream import UpstreamLostError


class Assembler:
    """Collects the frames of one stream; ``result`` is OpenAI's whole object."""

    def __init__(self, chat: bool) -> None:
        self._chat = chat
        self._base: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] | None = None

    def feed(self, data: bytes) -> None:
        """Takes the data of one frame. Raises for a model's error, and ``ApiError`` for what is not JSON."""
        try:
            frame = json.loads(data)
        except ValueError as error:
            raise upstream_failed("The model sent a frame that is not JSON.") from error
        if refusal := frame.get("error"):
            raise model_failure(refusal)
        for key in ("id", "created", "model", "system_fingerprint", "prompt_token_ids"):
            if frame.get(key) is not None:
                self._base.setdefault(key, frame[key])
        if frame.get("usage"):
            self._usage = frame["usage"]
        for part in frame.get("choices") or []:
            self._add(part)

    def result(self) -> dict[str, Any]:
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices:
            for call in choice.get("message", {}).get("tool_calls", ()):
                # Only a stream's parts are numbered.
                call.pop("index", None)
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._base, "object": kind, "choices": choices, "usage": self._usage}

    def _add(self, part: dict[str, Any]) -> None:
        index = part.get("index", 0)
        choice = self._choices.get(index)
        if choice is None:
            body: dict[str, Any] = {"message": {"role": "assistant", "content": None}} if self._chat else {"text": ""}
            choice = self._choices[index] = {"index": index, **body, "logprobs": None, "finish_reason": None}
        if self._chat:
            _add_delta(choice["message"], part.get("delta") or {})
        else:
            choice["text"] += part.get("text") or ""
        for key in ("finish_reason", "stop_reason"):
            if part.get(key) is not None:
                choice[key] = part[key]
        if part.get("prompt_token_ids") is not None:
            choice["prompt_token_ids"] = part["prompt_token_ids"]
        if part.get("token_ids") is not None:
            choice.setdefault("token_ids", []).extend(part["token_ids"])
        if part.get("logprobs"):
            choice["logprobs"] = _joined_logprobs(choice["logprobs"], part["logprobs"])


def model_failure(error: Any) -> ApiError | UpstreamLostError:
    """What a model's own error object means: another try may succeed when the model's engine has failed."""
    problem = _as_ours(error)
    code = error.get("code") if isinstance(error, dict) else None
    return UpstreamLostError(str(problem), problem) if isinstance(code, int) and code >= 500 else problem


def _as_ours(error: Any) -> ApiError:
    """Its status is kept when it blames the request."""
    message = error.get("message") if isinstance(error, dict) else str(error)
    code = error.get("code") if isinstance(error, dict) else None
    if code in (400, 413, 422):
        return ApiError(code, message or "The model refused the request.", param=error.get("param"))
    return upstream_failed(message or "The model failed.", code="model_error")


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key in ("content", "reasoning", "reasoning_content", "refusal"):
        if delta.get(key) is not None:
            message[key] = (message.get(key) or "") + delta[key]
    for call in delta.get("tool_calls") or []:
        _add_call(message.setdefault("tool_calls", []), call)


def _add_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    index = part.get("index")
    if index is None:
        # Of a server that numbers none, each call comes whole or begins with its id.
        index = len(calls) if part.get("id") or not calls else len(calls) - 1
    whole = next((call for call in calls if call["index"] == index), None)
    if whole is None:
        whole = {"index": index, "id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        calls.append(whole)
    whole["id"] = part.get("id") or whole["id"]
    function = part.get("function") or {}
    whole["function"]["name"] += function.get("name") or ""
    whole["function"]["arguments"] += function.get("arguments") or ""


def _joined_logprobs(whole: dict[str, Any] | None, part: dict[str, Any]) -> dict[str, Any]:
    whole = whole or {}
    for key, values in part.items():
        if isinstance(values, list):
            whole.setdefault(key, []).extend(values)
        else:
            whole.setdefault(key, values)
    return whole
