"""A request for OpenAI's responses as a request for a chat."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from aiia_serving.gateway.requests import ChatRequest, Echoed, Strict, inline_image


class _Item(Echoed):
    # An answer's items have these; a conversation has no use for them.
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class _Text(Echoed):
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class _Refusal(Strict):
    type: Literal["refusal"]
    refusal: str


class _Image(Strict):
    type: Literal["input_image"]
    image_url: Annotated[str, BeforeValidator(inline_image)]
    detail: Literal["auto", "low", "high"] | None = None


_Parts = list[Annotated[_Text | _Refusal | _Image, Field(discriminator="type")]]


class _Message(_Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | _Parts
    phase: str | None = None


class _Call(_Item):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class _CallOutput(_Item):
    type: Literal["function_call_output"]
    call_id: str
    output: str | _Parts


class _ReasoningText(Strict):
    type: Literal["reasoning_text"]
    text: str


class _Reasoning(_Item):
    type: Literal["reasoning"]
    summary: list[Any] | None = None
    content: list[_ReasoningText] | None = None
    encrypted_content: str | None = None


def _type_of(item: Any) -> str:
    found = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return str(found or "message")


_AnyItem = Annotated[
    Annotated[_Message, Tag("message")]
    | Annotated[_Call, Tag("function_call")]
    | Annotated[_CallOutput, Tag("function_call_output")]
    | Annotated[_Reasoning, Tag("reasoning")],
    Discriminator(_type_of),
]


class _Tool(Strict):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def chat(self) -> dict[str, Any]:
        function = self.model_dump(exclude={"type"}, exclude_none=True)
        return {"type": "function", "function": function}


class _ToolChoice(Strict):
    type: Literal["function"]
    name: str


class _PlainFormat(Strict):
    type: Literal["text", "json_object"]


class _SchemaFormat(Strict):
    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class _TextConfig(Strict):
    format: Annotated[_PlainFormat | _SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _ReasoningConfig(Strict):
    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class _StreamOptions(Strict):
    include_obfuscation: bool | None = None


def _nothing_is_kept(given: Any) -> Any:
    if given is not None:
        raise ValueError("no response is kept here: send the whole conversation as 'input'")
    return given


_Nothing = Annotated[None, BeforeValidator(_nothing_is_kept)]


class ResponsesRequest(Strict):
    """``POST /v1/responses``. Nothing is stored, whatever ``store`` says; the answer says so too."""

    model: str
    input: str | Annotated[list[_AnyItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: _TextConfig | None = None
    reasoning: _ReasoningConfig | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    previous_response_id: _Nothing = None
    conversation: _Nothing = None
    # What cannot be given is left out of the answer, as OpenAI's models without thoughts do.
    include: list[Literal["reasoning.encrypted_content"]] | None = None
    # Clients send these as a matter of course; they are about OpenAI's own service.
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def chat(self) -> ChatRequest:
        """The same as a request for a chat."""
        chat: dict[str, Any] = {"model": self.model, "messages": self._messages()}
        if self.stream:
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.max_output_tokens is not None:
            chat["max_completion_tokens"] = self.max_output_tokens
        for name in ("temperature", "top_p", "parallel_tool_calls"):
            if (value := getattr(self, name)) is not None:
                chat[name] = value
        if self.tools:
            chat["tools"] = [tool.chat() for tool in self.tools]
            if self.tool_choice is not None:
                chat["tool_choice"] = _choice(self.tool_choice)
        if self.reasoning is not None and self.reasoning.effort is not None:
            chat["reasoning_effort"] = self.reasoning.effort
        if self.text is not None and self.text.format is not None:
            chat["response_format"] = _format(self.text.format)
        return ChatRequest.model_validate(chat)

    def told(self) -> dict[str, Any]:
        """What a response says of its request."""
        text = self.text.model_dump(by_alias=True, exclude_none=True) if self.text else {}
        choice = self.tool_choice
        return {
            "model": self.model,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "tools": [tool.model_dump() for tool in self.tools or ()],
            "tool_choice": choice.model_dump() if isinstance(choice, _ToolChoice) else choice or "auto",
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "text": {"format": {"type": "text"}, **text},
            "reasoning": {"effort": self.reasoning.effort if self.reasoning else None, "summary": None},
            "truncation": "disabled",
            "metadata": self.metadata or {},
            "user": self.user,
        }

    def _messages(self) -> list[dict[str, Any]]:
        conversation = _Conversation()
        if self.instructions:
            conversation.system(self.instructions)
        items = [_Message(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        for item in items:
            conversation.add(item)
        return conversation.messages


class _Conversation:
    """Items one after the other; those that are one answer of the model become one message."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def system(self, text: str) -> None:
        """Many templates take one such message, and only in front."""
        if len(self.messages) == 1 and self.messages[0]["role"] == "system":
            self.messages[0]["content"] += "\n\n" + text
        else:
            self.messages.append({"role": "system", "content": text})

    def add(self, item: _Message | _Call | _CallOutput | _Reasoning) -> None:
        if isinstance(item, _CallOutput):
            self.messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text_of(item.output)})
            self._add_images(item.output)
        elif isinstance(item, _Reasoning):
            if thought := "".join(part.text for part in item.content or ()):
                answer = self._answer()
                answer["reasoning"] = answer.get("reasoning", "") + thought
        elif isinstance(item, _Call):
            call = {"name": item.name, "arguments": item.arguments}
            calls = self._answer().setdefault("tool_calls", [])
            calls.append({"id": item.call_id, "type": "function", "function": call})
        elif item.role == "assistant":
            answer = self._answer(begun=item)
            answer["content"] = _text_of(item.content)
        elif item.role in ("system", "developer"):
            self.system(_text_of(item.content))
        else:
            self.messages.append({"role": "user", "content": _content(item.content)})

    def _answer(self, begun: _Message | None = None) -> dict[str, Any]:
        """The model's message that is being put together; one that has its text does not take another."""
        last = self.messages[-1] if self.messages else {}
        if last.get("role") != "assistant" or (begun is not None and last.get("content") is not None):
            last = {"role": "assistant", "content": None}
            self.messages.append(last)
        return last

    def _add_images(self, output: "str | _Parts") -> None:
        # A chat takes only text from a tool.
        if not isinstance(output, str) and (images := [part for part in output if isinstance(part, _Image)]):
            self.messages.append({"role": "user", "content": _content(images)})


def _text_of(content: "str | _Parts") -> str:
    if isinstance(content, str):
        return content
    texts = (part.text if isinstance(part, _Text) else part.refusal for part in content if not isinstance(part, _Image))
    return "\n\n".join(texts)


def _content(content: Any) -> str | list[dict[str, Any]]:
    """Text alone as one string, which every model's template takes."""
    if isinstance(content, str) or not any(isinstance(part, _Image) for part in content):
        return _text_of(content)
    return [
        {"type": "image_url", "image_url": {"url": part.image_url}}
        if isinstance(part, _Image)
        else {"type": "text", "text": _text_of([part])}
        for part in content
    ]


def _choice(choice: str | _ToolChoice) -> Any:
    return choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice.name}}


def _format(wanted: _PlainFormat | _SchemaFormat) -> dict[str, Any]:
    if isinstance(wanted, _PlainFormat):
        return {"type": wanted.type}
    schema = wanted.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
    return {"type": "json_schema", "json_schema": schema}
