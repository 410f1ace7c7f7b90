"""Anthropic's messages as a request for a chat."""

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from aiia_serving.gateway.requests import ChatRequest, Echoed, Strict, TokenizeRequest


class _Block(Echoed):
    # Prefixes are cached here without being asked.
    cache_control: dict[str, Any] | None = None


class _Text(_Block):
    type: Literal["text"]
    text: str
    citations: list[Any] | None = Field(default=None, max_length=0)


class _Source(Strict):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class _Image(_Block):
    type: Literal["image"]
    source: _Source

    def part(self) -> dict[str, Any]:
        url = f"data:{self.source.media_type};base64,{self.source.data}"
        return {"type": "image_url", "image_url": {"url": url}}


class _Thinking(Echoed):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class _ToolUse(_Block):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


class _ToolResult(_Block):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[Annotated[_Text | _Image, Field(discriminator="type")]] | None = None
    is_error: bool | None = None


_AnyBlock = Annotated[_Text | _Image | _Thinking | _ToolUse | _ToolResult, Field(discriminator="type")]


def _blocks(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


_Blocks = Annotated[list[_AnyBlock], BeforeValidator(_blocks)]
_Texts = Annotated[list[_Text], BeforeValidator(_blocks)]


class _Message(Strict):
    role: Literal["user", "assistant", "system"]
    content: _Blocks

    @model_validator(mode="after")
    def _blocks_of_role(self) -> "_Message":
        wrong = {"user": (_Thinking, _ToolUse), "assistant": (_Image, _ToolResult)}.get(
            self.role, (_Thinking, _ToolUse, _Image, _ToolResult)
        )
        for block in self.content:
            if isinstance(block, wrong):
                raise ValueError(f"a block of type '{block.type}' is not part of a message of the {self.role}")
        return self

    def chat(self) -> list[dict[str, Any]]:
        """The messages of a chat that say the same."""
        if self.role == "assistant":
            return [self._answer()]
        results = [block for block in self.content if isinstance(block, _ToolResult)]
        parts: list[dict[str, Any]] = []
        for result in results:
            # A chat takes only text from a tool.
            parts += [block.part() for block in result.content or () if isinstance(block, _Image)]
        parts += [_part(block) for block in self.content if isinstance(block, _Text | _Image)]
        said = [{"role": self.role, "content": _joined(parts)}] if parts or not results else []
        return [*(_result(result) for result in results), *said]

    def _answer(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": _text_of(self.content) or None}
        if thought := "".join(block.thinking for block in self.content if isinstance(block, _Thinking)):
            message["reasoning"] = thought
        calls = [block for block in self.content if isinstance(block, _ToolUse)]
        if calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.input, ensure_ascii=False)},
                }
                for call in calls
            ]
        return message


def _part(block: _Text | _Image) -> dict[str, Any]:
    return {"type": "text", "text": block.text} if isinstance(block, _Text) else block.part()


def _joined(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Text alone as one string, which every model's template takes."""
    if any(part["type"] != "text" for part in parts):
        return parts
    return "\n\n".join(part["text"] for part in parts)


def _text_of(content: Any) -> str:
    return "\n\n".join(block.text for block in content if isinstance(block, _Text))


def _result(result: _ToolResult) -> dict[str, Any]:
    text = result.content if isinstance(result.content, str) else _text_of(result.content or ())
    return {"role": "tool", "tool_call_id": result.tool_use_id, "content": text}


class _Tool(Strict):
    name: str = Field(min_length=1, max_length=128)
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    eager_input_streaming: bool | None = None

    def chat(self) -> dict[str, Any]:
        described = {"description": self.description} if self.description is not None else {}
        return {"type": "function", "function": {"name": self.name, **described, "parameters": self.input_schema}}


class _ToolChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> "_ToolChoice":
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("'name' goes with the type 'tool', and only with it")
        return self

    def chat(self) -> dict[str, Any]:
        choice: Any = {"auto": "auto", "any": "required", "none": "none"}.get(self.type)
        chosen = {"tool_choice": choice or {"type": "function", "function": {"name": self.name}}}
        return chosen | ({"parallel_tool_calls": False} if self.disable_parallel_tool_use else {})


class _ThinkingConfig(Strict):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(default=None, ge=1)
    display: Literal["summarized", "omitted"] | None = None


class _Format(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class CountRequest(Strict):
    """``POST /v1/messages/count_tokens``."""

    model: str
    messages: list[_Message] = Field(min_length=1)
    system: _Texts | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _ThinkingConfig | None = None
    output_config: _OutputConfig | None = None
    cache_control: dict[str, Any] | None = None

    def tokenize(self) -> TokenizeRequest:
        return TokenizeRequest.model_validate({"model": self.model, **self._conversation()})

    def _conversation(self) -> dict[str, Any]:
        messages = [said for message in self.messages for said in message.chat()]
        if self.system:
            messages.insert(0, {"role": "system", "content": _text_of(self.system)})
        tools = {"tools": [tool.chat() for tool in self.tools]} if self.tools else {}
        return {"messages": messages, **tools}


class _Metadata(Strict):
    user_id: str | None = None


class MessagesRequest(CountRequest):
    """``POST /v1/messages``. What concerns Anthropic's own service is taken and dropped."""

    max_tokens: int = Field(ge=1)
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    context_management: dict[str, Any] | None = None

    def chat(self) -> ChatRequest:
        """The same as a request for a chat."""
        chat: dict[str, Any] = {"model": self.model, "max_tokens": self.max_tokens, **self._conversation()}
        if self.stream:
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
        for name in ("temperature", "top_p", "top_k"):
            if (value := getattr(self, name)) is not None:
                chat[name] = value
        if self.stop_sequences:
            chat["stop"] = self.stop_sequences
        if self.tool_choice is not None and self.tools:
            chat |= self.tool_choice.chat()
        if self.thinking is not None and self.thinking.type != "adaptive":
            # The name that most models' templates have for it; others do not look at it.
            chat["chat_template_kwargs"] = {"enable_thinking": self.thinking.type == "enabled"}
        if self.output_config is not None:
            chat |= _output(self.output_config)
        return ChatRequest.model_validate(chat)


def _output(config: _OutputConfig) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if config.effort is not None:
        chat["reasoning_effort"] = {"xhigh": "high", "max": "high"}.get(config.effort, config.effort)
    if config.format is not None:
        schema = {"name": "answer", "schema": config.format.schema_}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat
