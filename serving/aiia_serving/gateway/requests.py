"""The request bodies that are taken: an allow-list, because models' own servers accept far more than users may ask."""

from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict

from aiia_serving.gateway.errors import ApiError


class Strict(BaseModel):
    """A part of a request: what it does not name is refused."""

    model_config = ConfigDict(extra="forbid")


class Echoed(Strict):
    """A part of an answer, which clients send back with the fields of their own types: those that are empty go."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None or name in cls.model_fields}


def inline_image(url: Any) -> Any:
    """``url`` if it carries its image itself. Raises ``ValueError`` for one that would have to be fetched."""
    # A model that fetched addresses for its users would be a way into the network it stands in.
    if isinstance(url, str) and not url.startswith("data:image/"):
        raise ValueError("only data:image/… URLs are accepted")
    return url


class _ImageUrl(Strict):
    url: Annotated[str, BeforeValidator(inline_image)]
    detail: Literal["auto", "low", "high"] | None = None


class _ImagePart(Strict):
    type: Literal["image_url"]
    image_url: _ImageUrl


class _TextPart(Strict):
    type: Literal["text"]
    text: str


class _CalledFunction(Echoed):
    name: str
    arguments: str


class _ToolCall(Echoed):
    id: str
    type: Literal["function"] = "function"
    function: _CalledFunction
    # Streams have it, and some clients send back what they got.
    index: int | None = Field(default=None, exclude=True)


class Message(Echoed):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Annotated[_TextPart | _ImagePart, Field(discriminator="type")]] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class Function(Strict):
    """A function that a model may call; ``parameters`` is a JSON schema."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class _FunctionName(Strict):
    name: str


class _ToolChoice(Strict):
    type: Literal["function"]
    function: _FunctionName


# A typed dictionary, because a model's field cannot be called "schema".
@with_config(extra="forbid")
class _JsonSchema(TypedDict):
    name: str
    schema: dict[str, Any]
    description: NotRequired[str | None]
    strict: NotRequired[bool | None]


class _SchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


class _PlainFormat(Strict):
    type: Literal["text", "json_object"]


class _StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(Strict):
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

    def estimated_prompt_tokens(self) -> int:
        """From lengths alone."""
        raise NotImplementedError

    def estimated_cost(self) -> float:
        """Tokens of work, for the queue: prompt + 2 x output, from lengths alone."""
        raise NotImplementedError

    def conversation_start(self) -> str:
        """What stays the same while a conversation goes on."""
        raise NotImplementedError


class ChatRequest(GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: Annotated[_PlainFormat | _SchemaFormat, Field(discriminator="type")] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None
    # Clients send these as a matter of course; nothing here is stored or billed, so they are taken and dropped.
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    modalities: list[Literal["text"]] | None = None

    def estimated_prompt_tokens(self) -> int:
        return sum(_characters(m) for m in self.messages) // 4

    def estimated_cost(self) -> float:
        return self.estimated_prompt_tokens() + 2 * (self.max_completion_tokens or self.max_tokens or 512)

    def conversation_start(self) -> str:
        first = next((position for position, m in enumerate(self.messages) if m.role == "user"), 0)
        return "\n".join(str(m.content) for m in self.messages[: first + 1])


#: An image is commonly some hundred to some thousand tokens.
CHARACTERS_OF_IMAGE = 4000


def _characters(message: Message) -> int:
    if message.content is None or isinstance(message.content, str):
        return len(message.content or "")
    return sum(len(part.text) if isinstance(part, _TextPart) else CHARACTERS_OF_IMAGE for part in message.content)


def _only_one(prompt: Any) -> Any:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise ValueError("one prompt per request")
        return prompt[0]
    return prompt


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``. The prompt is one text or one list of token ids, alone or in a list of one."""

    prompt: Annotated[str | list[int], BeforeValidator(_only_one)]
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: Literal[1] | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)

    def estimated_prompt_tokens(self) -> int:
        return len(self.prompt) // 4 if isinstance(self.prompt, str) else len(self.prompt)

    def estimated_cost(self) -> float:
        return self.estimated_prompt_tokens() + 2 * (self.max_tokens or 16)

    def conversation_start(self) -> str:
        return str(self.prompt[:1000])


class TokenizeRequest(Strict):
    """``POST /v1/tokenize``: how many tokens a conversation is to a model."""

    model: str
    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] | None = None


R = TypeVar("R", bound=Strict)

# Fields that are not for models: about the relay itself, or dropped as said above.
_NOT_FORWARDED = {
    *("model", "stream", "stream_options", "return_token_ids"),
    *("store", "metadata", "service_tier", "user", "prompt_cache_key", "safety_identifier", "modalities"),
}


def decoded(body: bytes) -> Any:
    """What a JSON body says. Raises ``ApiError`` 400."""
    try:
        # Unlike Python's own parser it refuses what cannot be sent on: NaN, halves of characters, depth without end.
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}.", code="invalid_json") from error


def validated(kind: type[R], given: Any) -> R:
    """The request that ``given`` is. Raises ``ApiError`` 400 that names the field."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise explained(error) from error


def parse(kind: type[R], body: bytes) -> R:
    """The request in ``body``. Raises ``ApiError`` 400 that names the field."""
    request = validated(kind, decoded(body))
    if isinstance(request, GenerationRequest) and request.stream_options is not None and not request.stream:
        raise ApiError(400, "'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    return request


def model_payload(request: GenerationRequest, *, model: str, with_token_ids: bool) -> dict[str, Any]:
    """What goes to the model: always a stream, because a model notices a caller's leaving only while it streams.

    Always with usage, which is counted here whether the caller wants to see it or not.
    """
    payload = request.model_dump(exclude_unset=True, exclude=_NOT_FORWARDED)
    for message in payload.get("messages", ()):
        if message["role"] == "developer":
            # A newer name for the same, which many models' templates do not know.
            message["role"] = "system"
    payload.update(model=model, stream=True, stream_options={"include_usage": True})
    if with_token_ids:
        payload["return_token_ids"] = True
    return payload


def explained(error: ValidationError) -> ApiError:
    """What a caller is told about fields that do not validate."""
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
