"""A chat as JSON with all its branches, or as Markdown of the one that is shown."""

from collections.abc import Iterable, Iterator
from typing import Any

from django.utils import timezone

from aiia_platform.chats import tree
from aiia_platform.chats.models import Chat, Message

FORMAT, VERSION = "aiia-chats", 1


def as_json(chats: Iterable[Chat]) -> dict[str, Any]:
    """`{"format": "aiia-chats", "version": 1, "exported_at": …, "chats": [...]}`: what `importing.read` takes."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "exported_at": timezone.now().isoformat(),
        "chats": [_chat(chat) for chat in chats],
    }


def as_markdown(chat: Chat) -> Iterator[str]:
    """Piece by piece, in the order in which it is read."""
    yield f"# {_line(chat.title)}\n"
    for message in shown(chat):
        yield f"\n## {_line(author_of(message))}\n\n{message.text}\n"


def shown(chat: Chat) -> "list[Message]":
    """The messages of the branch that is shown, without those that were taken out."""
    return list(tree.branch(chat.end).filter(deleted_at=None).to_read())


def model_of(message: Message) -> str:
    """The model that wrote a message; '' if nothing says which."""
    return message.generation.model if hasattr(message, "generation") else ""


def author_of(message: Message) -> str:
    """`You`, or the model that wrote it."""
    return "You" if message.role == Message.Role.USER else model_of(message) or "Assistant"


def _chat(chat: Chat) -> dict[str, Any]:
    messages = Message.objects.filter(chat=chat, deleted_at=None).order_by("position", "created_at").to_read()
    end = chat.end
    return {
        "id": str(chat.pk),
        "title": chat.title,
        "created_at": chat.created_at.isoformat(),
        "updated_at": chat.updated_at.isoformat(),
        "leaf": str(end or ""),
        "system_prompt": chat.system_prompt,
        "params": chat.params,
        "tags": chat.tags,
        "is_pinned": chat.is_pinned,
        "is_archived": chat.archived_at is not None,
        "messages": [
            {
                "id": str(message.pk),
                "parent": str(message.parent_id or ""),
                "role": message.role,
                "text": message.text,
                "reasoning": message.reasoning,
                "model": model_of(message),
                "created_at": message.created_at.isoformat(),
            }
            for message in messages
        ],
    }


def _line(text: str) -> str:
    return " ".join(text.split())
