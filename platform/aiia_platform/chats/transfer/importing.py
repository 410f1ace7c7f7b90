"""Exports, ours and others', into a user's chats."""

import io
import json
import uuid
import zipfile
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone
from pydantic import BaseModel, ValidationError

from aiia_platform.chats.models import MAX_MESSAGE_LENGTH, TITLE_LENGTH, Chat, Message
from aiia_platform.chats.transfer.formats import ChatGptChat, LibreChatChat, OurChat, WebUiChat
from aiia_platform.chats.transfer.parsed import NAMESPACE, ParsedChat, UnreadableExport
from aiia_platform.generations.models import Generation

if TYPE_CHECKING:
    from aiia_platform.accounts.models import User

#: Bytes of an export, unpacked.
MAX_EXPORT_SIZE = 200 * 2**20
_SOURCES = {"aiia": "aiia", "chatgpt": "ChatGPT", "open-webui": "Open WebUI", "librechat": "LibreChat"}
_CUT = "\n\n*(cut off: longer than a message may be)*"


def read(content: bytes) -> list[ParsedChat]:
    """The chats in an export: JSON, or the archive in which ChatGPT sends it. Raises `UnreadableExport`."""
    if content.startswith(b"PK\x03\x04"):
        content = _unpacked(content)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableExport(f"It is not JSON: {error}.") from error
    if isinstance(data, dict) and data.get("format") == "aiia-chats":
        data = data.get("chats")
    entries = data if isinstance(data, list) else [data]
    if not entries:
        raise UnreadableExport("There is no chat in it.")
    return [_parse(entry, number) for number, entry in enumerate(entries, 1)]


def store(user: "User", chats: list[ParsedChat]) -> tuple[int, int]:
    """Make them chats of this user; how many are new, and how many were there from an earlier import."""
    new = 0
    for parsed in chats:
        with transaction.atomic():
            new += _store(user, parsed)
    return new, len(chats) - new


def _parse(entry: Any, number: int) -> ParsedChat:
    kind = _kind(entry)
    if kind is None:
        raise UnreadableExport(
            f"Entry {number} is no chat of aiia, ChatGPT, Open WebUI or LibreChat. Choose the JSON that they export."
        )
    try:
        parsed: ParsedChat = kind.model_validate(entry).parse()  # type: ignore[attr-defined]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UnreadableExport(f"Entry {number}, {place}: {first['msg']}.") from error
    return parsed


def _kind(entry: Any) -> type[BaseModel] | None:
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("mapping"), dict):
        return ChatGptChat
    if isinstance(entry.get("chat"), dict):
        return WebUiChat
    if "conversationId" in entry and ("messages" in entry or "messagesTree" in entry):
        return LibreChatChat
    return OurChat if isinstance(entry.get("messages"), list) else None


def _unpacked(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            name = next(name for name in archive.namelist() if name.rsplit("/")[-1] == "conversations.json")
            with archive.open(name) as file:
                unpacked = file.read(MAX_EXPORT_SIZE + 1)
    except StopIteration:
        raise UnreadableExport("There is no conversations.json in this archive.") from None
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise UnreadableExport(f"The archive cannot be read: {error}.") from error
    if len(unpacked) > MAX_EXPORT_SIZE:
        raise UnreadableExport(f"It is larger than {MAX_EXPORT_SIZE // 2**20} MiB.")
    return unpacked


def _store(user: "User", parsed: ParsedChat) -> bool:
    ordered = parsed.in_order()
    # Of the user too, so that two who import the same file have a chat each.
    space = uuid.uuid5(NAMESPACE, f"{user.pk} {parsed.source} {parsed.key or _digest(parsed)}")
    if Chat.objects.filter(pk=space).exists():
        return False
    now = timezone.now()
    ids = {message.key: uuid.uuid5(space, message.key) for message, _ in ordered}
    chat = Chat.objects.create(
        id=space,
        user=user,
        title=_clean(parsed.title)[:TITLE_LENGTH].strip() or "Imported chat",
        is_titled=True,
        tags=[_clean(tag)[:40] for tag in parsed.tags if _clean(tag)][:10],
        is_pinned=parsed.is_pinned,
        archived_at=now if parsed.is_archived else None,
        system_prompt=_clean(parsed.system_prompt)[:MAX_MESSAGE_LENGTH],
        leaf=ids.get(parsed.leaf),
        source={"from": parsed.source, "id": parsed.key, "at": now.isoformat()},
    )
    Message.objects.bulk_create(
        [
            Message(
                id=ids[message.key],
                chat=chat,
                user=user,
                parent_id=ids.get(message.parent),
                position=depth,
                role=message.role,
                text=_fitting(message.text),
                reasoning=_fitting(message.reasoning),
                created_at=message.created_at or parsed.created_at or now,
            )
            for message, depth in ordered
        ],
        batch_size=500,
    )
    Generation.objects.bulk_create(
        [
            Generation(
                message_id=ids[message.key],
                user=user,
                model=_clean(message.model)[:200] or _SOURCES[parsed.source],
                state=Generation.State.DONE,
                queued_at=message.created_at or now,
                finished_at=message.created_at or now,
            )
            for message, _ in ordered
            if message.role == Message.Role.ASSISTANT
        ],
        batch_size=500,
    )
    Message.objects.filter(chat=chat).index()
    times = {"created_at": parsed.created_at or now, "updated_at": parsed.updated_at or parsed.created_at or now}
    Chat.objects.filter(pk=chat.pk).update(**times)
    return True


def _digest(parsed: ParsedChat) -> str:
    return "\0".join([parsed.title, *(message.text for message in parsed.messages)])


def _clean(text: str) -> str:
    return text.replace("\x00", "").strip()


def _fitting(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - len(_CUT)] + _CUT
