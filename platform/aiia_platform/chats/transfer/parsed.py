"""A chat as any export has it, before it is one of ours."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime

#: Names of imported chats and messages are made from this, so that an import that is repeated changes nothing.
NAMESPACE = uuid.UUID("5f0c6f0e-7a0b-4f43-9a39-1f6f2f0c8f1d")


class UnreadableExport(Exception):
    """A file that is no export we know, or a broken one; the message says what is wrong with it."""


@dataclass
class ParsedMessage:
    """`key` names it within its chat, `parent` the message that it follows; '' for the first ones."""

    key: str
    parent: str
    role: str
    text: str
    reasoning: str = ""
    model: str = ""
    created_at: datetime | None = None


@dataclass
class ParsedChat:
    """`key` is its name where it comes from, `leaf` the key of the last message of the branch that was shown."""

    source: str
    key: str
    title: str
    messages: list[ParsedMessage]
    created_at: datetime | None = None
    updated_at: datetime | None = None
    leaf: str = ""
    system_prompt: str = ""
    tags: list[str] = field(default_factory=list)
    is_pinned: bool = False
    is_archived: bool = False

    def in_order(self) -> list[tuple[ParsedMessage, int]]:
        """The messages with their depths, each after the one that it follows.

        What follows a message that is not there, or itself, begins the chat.
        """
        known = {message.key for message in self.messages}
        below: dict[str, list[ParsedMessage]] = {}
        for message in self.messages:
            parent = message.parent if message.parent in known and message.parent != message.key else ""
            message.parent = parent
            below.setdefault(parent, []).append(message)
        ordered: list[tuple[ParsedMessage, int]] = []
        waiting = [(message, 0) for message in reversed(below.pop("", []))]
        while waiting:
            message, depth = waiting.pop()
            ordered.append((message, depth))
            waiting += [(child, depth + 1) for child in reversed(below.pop(message.key, []))]
        if below:
            raise UnreadableExport(f"In the chat “{self.title[:60]}” messages follow each other in a circle.")
        return ordered
