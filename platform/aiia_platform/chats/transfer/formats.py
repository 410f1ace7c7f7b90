"""What the exports of other programs look like, as far as we read them. Everything else in them is passed over.

Sources: ChatGPT's `conversations.json` (the data export of an account), Open WebUI's "Export chats" and LibreChat's
"Export" of one conversation (JSON), each as its program writes it in 2025.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from aiia_platform.chats.transfer.parsed import ParsedChat, ParsedMessage

_ROLES = {"user", "assistant"}


def _moment(given: Any) -> datetime | None:
    """A moment as seconds, milliseconds, or ISO 8601; None for what is no moment."""
    try:
        if isinstance(given, str):
            moment = datetime.fromisoformat(given.replace("Z", "+00:00"))
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if isinstance(given, int | float) and given > 0:
            return datetime.fromtimestamp(given / 1000 if given > 1e11 else given, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _text(given: Any) -> str:
    return given if isinstance(given, str) else ""


Moment = Annotated[datetime | None, BeforeValidator(_moment)]
Text = Annotated[str, BeforeValidator(_text)]


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Camel(_Loose):
    model_config = ConfigDict(alias_generator=to_camel)


class OurMessage(_Loose):
    id: Text
    parent: Text = ""
    role: Text
    text: Text = ""
    reasoning: Text = ""
    model: Text = ""
    created_at: Moment = None


class OurChat(_Loose):
    """One of `chats` in our own JSON."""

    id: Text
    title: Text = ""
    created_at: Moment = None
    updated_at: Moment = None
    leaf: Text = ""
    system_prompt: Text = ""
    tags: list[str] = []
    is_pinned: bool = False
    is_archived: bool = False
    messages: list[OurMessage]

    def parse(self) -> ParsedChat:
        messages = [
            ParsedMessage(m.id, m.parent, m.role, m.text, m.reasoning, m.model, m.created_at)
            for m in self.messages
            if m.role in _ROLES
        ]
        return ParsedChat(
            "aiia",
            self.id,
            self.title,
            messages,
            self.created_at,
            self.updated_at,
            self.leaf,
            self.system_prompt,
            self.tags,
            self.is_pinned,
            self.is_archived,
        )


class _Author(_Loose):
    role: Text = ""


class _Content(_Loose):
    content_type: Text = "text"
    parts: list[Any] = []
    text: Text = ""
    thoughts: list[Any] = []


class _ChatGptMessage(_Loose):
    author: _Author
    content: _Content
    create_time: Moment = None
    metadata: dict[str, Any] = {}


class _Node(_Loose):
    parent: Text = ""
    message: _ChatGptMessage | None = None


class ChatGptChat(_Loose):
    """One of ChatGPT's conversations. Nodes that say nothing to a reader (tools, hidden ones) are skipped over."""

    title: Text = ""
    create_time: Moment = None
    update_time: Moment = None
    mapping: dict[str, _Node]
    current_node: Text = ""
    conversation_id: Text = ""
    id: Text = ""
    is_archived: bool | None = False

    def parse(self) -> ParsedChat:
        messages, thought = [], dict[str, str]()
        for key, node in self.mapping.items():
            said = node.message
            if said is None or said.author.role not in _ROLES:
                continue
            if said.content.content_type in {"thoughts", "reasoning_recap"}:
                thought[key] = "\n\n".join(
                    str(t.get("content", "")) for t in said.content.thoughts if isinstance(t, dict)
                )
                continue
            text = _parts(said.content)
            if text and not said.metadata.get("is_visually_hidden_from_conversation"):
                model = _text(said.metadata.get("model_slug"))
                messages.append(ParsedMessage(key, "", said.author.role, text, "", model, said.create_time))
        shown = {message.key for message in messages}
        for message in messages:
            message.parent, passed = self._above(message.key, shown)
            message.reasoning = "\n\n".join(thought[key] for key in reversed(passed) if thought.get(key))
        leaf = self.current_node if self.current_node in shown else self._above(self.current_node, shown)[0]
        return ParsedChat(
            "chatgpt",
            self.conversation_id or self.id,
            self.title,
            messages,
            self.create_time,
            self.update_time,
            leaf,
            is_archived=bool(self.is_archived),
        )

    def _above(self, key: str, shown: set[str]) -> tuple[str, list[str]]:
        """The nearest shown node above, and what was passed on the way there."""
        passed: list[str] = []
        node = self.mapping.get(key)
        while node is not None and node.parent and node.parent not in shown and node.parent not in passed:
            passed.append(node.parent)
            node = self.mapping.get(node.parent)
        return (node.parent if node is not None and node.parent in shown else ""), passed


def _parts(content: _Content) -> str:
    found = [part if isinstance(part, str) else _attachment(part) for part in content.parts]
    if content.content_type == "code" and content.text:
        found.append(f"```\n{content.text}\n```")
    elif content.text:
        found.append(content.text)
    return "\n\n".join(part for part in found if part.strip())


def _attachment(part: Any) -> str:
    if isinstance(part, dict) and part.get("content_type") == "image_asset_pointer":
        return "*(an image, which the export does not hold)*"
    return _text(part.get("text")) if isinstance(part, dict) else ""


class _WebUiMessage(_Camel):
    id: Text = ""
    parent_id: Text = ""
    role: Text = ""
    content: Any = ""
    model: Text = ""
    timestamp: Moment = None


class _WebUiHistory(_Camel):
    messages: dict[str, _WebUiMessage] = {}
    current_id: Text = ""


class _WebUiInner(_Loose):
    title: Text = ""
    system: Text = ""
    tags: list[Any] = []
    history: _WebUiHistory = Field(default_factory=_WebUiHistory)
    messages: list[_WebUiMessage] = []


class WebUiChat(_Loose):
    """One of Open WebUI's chats. Those from before it had branches hold a list of messages alone."""

    id: Text = ""
    title: Text = ""
    chat: _WebUiInner
    created_at: Moment = None
    updated_at: Moment = None
    pinned: bool | None = False
    archived: bool | None = False

    def parse(self) -> ParsedChat:
        history = self.chat.history.messages
        if history:
            rows = [(key, message.parent_id, message) for key, message in history.items()]
        else:
            keys = ["", *(message.id or str(place) for place, message in enumerate(self.chat.messages))]
            rows = list(zip(keys[1:], keys, self.chat.messages, strict=False))
        messages = []
        for key, parent, message in rows:
            if message.role in _ROLES:
                reasoning, text = _details(_said(message.content))
                messages.append(
                    ParsedMessage(key, parent, message.role, text, reasoning, message.model, message.timestamp)
                )
        return ParsedChat(
            "open-webui",
            self.id,
            self.title or self.chat.title,
            messages,
            self.created_at,
            self.updated_at,
            self.chat.history.current_id,
            self.chat.system,
            [tag for tag in self.chat.tags if isinstance(tag, str)],
            bool(self.pinned),
            bool(self.archived),
        )


def _details(text: str) -> tuple[str, str]:
    """Open WebUI keeps what a model thought at the head of its answer, as `<details type="reasoning">`."""
    head, mark, rest = text.partition("</details>")
    if not mark or not head.lstrip().startswith('<details type="reasoning"'):
        return "", text
    inner = head.partition(">")[2].partition("</summary>")
    thought = "\n".join(line.removeprefix("> ") for line in (inner[2] or inner[0]).strip().splitlines())
    return thought, rest.strip()


class _LibreMessage(_Camel):
    message_id: Text = ""
    parent_message_id: Text = ""
    is_created_by_user: bool = False
    text: Text = ""
    content: Any = None
    model: Text | None = ""
    created_at: Moment = None
    children: list["_LibreMessage"] = []


class LibreChatChat(_Camel):
    """A conversation that LibreChat exported, with its messages as a list or nested."""

    conversation_id: Text = ""
    title: Text = ""
    messages: list[_LibreMessage] = []
    messages_tree: list[_LibreMessage] = []

    def parse(self) -> ParsedChat:
        messages = []
        waiting = list(reversed(self.messages or self.messages_tree))
        while waiting:
            message = waiting.pop()
            waiting += reversed(message.children)
            thought, text = _blocks(message.content) if message.content else ("", message.text)
            messages.append(
                ParsedMessage(
                    message.message_id,
                    message.parent_message_id,
                    "user" if message.is_created_by_user else "assistant",
                    text or message.text,
                    thought,
                    message.model or "",
                    message.created_at,
                )
            )
        leaf = messages[-1].key if messages else ""
        return ParsedChat("librechat", self.conversation_id, self.title, messages, leaf=leaf)


def _said(content: Any) -> str:
    return _blocks(content)[1] if isinstance(content, list) else _text(content)


def _blocks(content: Any) -> tuple[str, str]:
    """What was thought and what was said, of content that comes in blocks."""
    thought: list[str] = []
    said: list[str] = []
    for block in content if isinstance(content, list) else []:
        if not isinstance(block, dict):
            continue
        text = block.get(block.get("type", ""), block.get("text"))
        if isinstance(text, dict):
            text = text.get("value")
        if isinstance(text, str):
            (thought if block.get("type") == "think" else said).append(text)
    return "\n\n".join(thought), "\n\n".join(said)
