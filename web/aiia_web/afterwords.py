"""What a model said after an answer, as pages show it."""

from typing import Any
from uuid import UUID, uuid4

from aiia_platform.chats.models import Message


def follow_ups(message: Message | None, leaf: UUID | None) -> dict[str, Any]:
    """What `components/follow_ups.html` shows under a message; nothing under one that is not the end of its branch."""
    afterword = message.afterword if message else None
    if message is None or afterword is None or not afterword.follow_ups or message.pk != leaf or message.deleted_at:
        return {}
    # One id for all of them, so that the second of two clicks changes nothing.
    return {"answered": message, "questions": afterword.follow_ups, "follow_up_id": uuid4()}
