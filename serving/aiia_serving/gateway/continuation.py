"""An answer that broke off goes on at another replica, by the ids of its tokens, where that is exact."""

import json
import time
from dataclasses import dataclass
from typing import Any

from aiia_serving.gateway.requests import ChatRequest, CompletionRequest, GenerationRequest
from aiia_serving.gateway.sse import data_of
from aiia_serving.gateway.transcript import Written
from aiia_serving.state import ModelState


def can_continue(request: GenerationRequest, model: ModelState, written: Written) -> bool:
    """Whether the rest, asked for as a completion of token ids, is what the model would have written."""
    if not (model.exact_continuation and written.prompt_ids and written.is_text):
        return False
    if (request.n or 1) > 1 or request.logit_bias or getattr(request, "logprobs", None):
        return False
    if request.seed is not None and request.temperature != 0:
        # The seed's sequence of random numbers would begin again.
        return False
    if request.stop or request.min_tokens:
        # A stop string may have begun in text that was held back; a count of tokens would begin again.
        return False
    if any(penalty for penalty in (request.frequency_penalty, request.presence_penalty)):
        # These count what was written, and not what was asked.
        return False
    if isinstance(request, ChatRequest):
        # Their grammar and their parser begin with an answer, and not inside one.
        form = request.response_format
        return not request.tools and (form is None or form.type == "text")
    return isinstance(request, CompletionRequest)


def tokens_left(request: GenerationRequest, model: ModelState, written: Written) -> int | None:
    """How many more tokens may come; None when nothing bounds them."""
    asked = getattr(request, "max_completion_tokens", None) or request.max_tokens
    if asked is None and isinstance(request, CompletionRequest):
        asked = 16  # OpenAI's default, and vLLM's.
    bounds = [most - len(written.ids) for most in (asked, model.max_new_tokens) if most is not None]
    if model.max_model_len is not None:
        bounds.append(model.max_model_len - len(written.prompt_ids) - len(written.ids))
    return min(bounds, default=None)


_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "ignore_eos")


def continuation_payload(request: GenerationRequest, model_name: str, written: Written, left: int) -> dict[str, Any]:
    """The body for ``/completions`` that asks for the rest."""
    sampling = {key: getattr(request, key) for key in _SAMPLING if getattr(request, key) is not None}
    return {
        "model": model_name,
        "prompt": [*written.prompt_ids, *written.ids],
        "max_tokens": left,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        **sampling,
    }


@dataclass(frozen=True)
class Splice:
    """Makes the frames of a continuation look like those of the answer that it goes on with."""

    written: Written
    chat: bool
    with_ids: bool

    def __call__(self, frames: bytes) -> bytes:
        """Whole frames of ``/completions`` as frames of the first stream."""
        out = bytearray()
        for data in data_of(frames):
            if data == b"[DONE]":
                out += b"data: [DONE]\n\n"
                continue
            frame = self._frame(json.loads(data))
            out += b"data: %b\n\n" % json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()
        return bytes(out)

    def _frame(self, frame: dict[str, Any]) -> dict[str, Any]:
        if "error" in frame:
            return frame
        head = {"id": frame.get("id"), "created": int(time.time()), **self.written.head}
        head["object"] = "chat.completion.chunk" if self.chat else "text_completion"
        if usage := frame.get("usage"):
            before = len(self.written.ids)
            usage = {
                **usage,
                "prompt_tokens": len(self.written.prompt_ids),
                "completion_tokens": int(usage.get("completion_tokens") or 0) + before,
            }
            usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
            head["usage"] = usage
        return {**head, "choices": [self._choice(choice) for choice in frame.get("choices") or []]}

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        text = choice.get("text") or ""
        body: dict[str, Any] = {"delta": {"content": text}} if self.chat else {"text": text}
        ids = {"token_ids": choice.get("token_ids")} if self.with_ids else {}
        return {
            "index": 0,
            **body,
            "logprobs": None,
            "finish_reason": choice.get("finish_reason"),
            "stop_reason": choice.get("stop_reason"),
            **ids,
        }
