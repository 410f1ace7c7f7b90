"""The request bodies that are taken: an allow-list, because models' own servers accept far more than users may ask."""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from aiia_serving.gateway.errors import ApiError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _inline_image(url: Any) -> Any:
    # A model that fetched addresses for its users would be a way into the network it stands in.
    if isinstance(url, str) and not url.startswith("data:image/"):
        raise ValueError("only data:image/… URLs are accepted")
    return url


class _ImageUrl(_Strict):
    url: Annotated[str, BeforeValidator(_inline_image)]
    detail: Literal["auto", "low", "high"] | None = None


class _ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: _ImageUrl


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Annotated[_TextPart | _ImagePart, Field(discriminator="type")]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(_Strict):
    """What chat and text completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1, le=16)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    return_token_ids: bool | None = None
    user: str | None = None

    def estimated_cost(self) -> float:
        """Tokens of work, for the queue: prompt + 2 x output, from lengths alone."""
        raise NotImplementedError


class ChatRequest(GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None
    # Clients send these as a matter of course; nothing here is stored or billed, so they are taken and dropped.
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None

    def estimated_cost(self) -> float:
        characters = sum(len(m.content) if isinstance(m.content, str) else 1000 for m in self.messages)
        return characters / 4 + 2 * (self.max_completion_tokens or self.max_tokens or 512)


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``. The prompt is one text or one list of token ids."""

    prompt: str | list[int]
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: Literal[1] | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)

    def estimated_cost(self) -> float:
        tokens = len(self.prompt) / 4 if isinstance(self.prompt, str) else len(self.prompt)
        return tokens + 2 * (self.max_tokens or 16)


class TokenizeRequest(_Strict):
    """``POST /v1/tokenize``: how many tokens a conversation is to a model."""

    model: str
    messages: list[_Message] = Field(min_length=1)


R = TypeVar("R", bound=_Strict)

# Fields that are not for models: about the relay itself, or dropped as said above.
_NOT_FORWARDED = {"model", "stream", "stream_options", "store", "metadata", "service_tier", "user"}


def parse(kind: type[R], body: bytes) -> R:
    """The request in ``body``. Raises ``ApiError`` 400 that names the field."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The request body is not valid JSON.", code="invalid_json") from error
    try:
        request = kind.model_validate(raw)
    except ValidationError as error:
        raise _explained(error) from error
    if isinstance(request, GenerationRequest) and request.stream_options is not None and not request.stream:
        raise ApiError(400, "'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    return request


def model_payload(request: GenerationRequest, *, model: str, with_usage: bool, with_token_ids: bool) -> dict[str, Any]:
    """What goes to the model: always a stream, because a model notices a caller's leaving only while it streams."""
    payload = request.model_dump(exclude_unset=True, exclude=_NOT_FORWARDED)
    if not with_token_ids:
        payload.pop("return_token_ids", None)
    payload.update(model=model, stream=True)
    if with_usage:
        payload["stream_options"] = {"include_usage": True}
    return payload


def _explained(error: ValidationError) -> ApiError:
    # Where a field may be one of several things, the error that lies deepest is about the one that was meant.
    first = max(error.errors(include_url=False, include_input=False), key=lambda item: len(item["loc"]))
    field = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {field}", code="unknown_parameter", param=field)
    if first["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{field}'.", code="missing_required_parameter", param=field)
    message = first["msg"].removeprefix("Value error, ")
    where = f"Invalid '{field}': " if field else "Invalid request body: "
    return ApiError(400, where + message, code="invalid_value", param=field or None)
