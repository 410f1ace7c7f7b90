"""A chat's messages as a tree: the branch that is shown, and the ways to others.

A branch is named by its last message, its leaf. Walking from there upwards costs one index look-up per message, so
that the last fifty of a chat cost the same whatever its length.
"""

import uuid
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connection
from django.db.models.expressions import RawSQL

if TYPE_CHECKING:
    from aiia_platform.chats.models import Chat, Message, MessageQuerySet

#: Messages on a page.
WINDOW = 50

# Without ORDER BY, so that Postgres stops walking at the limit.
_UP = """(WITH RECURSIVE path AS (
    SELECT id, parent_id, position FROM chats_message WHERE id = %s
    UNION ALL
    SELECT m.id, m.parent_id, m.position FROM chats_message m JOIN path ON m.id = path.parent_id
) SELECT id FROM path WHERE position <= %s LIMIT %s)"""

_DOWN = """WITH RECURSIVE path AS (
    SELECT id, 0 AS depth FROM chats_message WHERE id = %s
    UNION ALL
    SELECT next.id, path.depth + 1 FROM path CROSS JOIN LATERAL (
        SELECT id FROM chats_message WHERE parent_id = path.id ORDER BY created_at DESC, id DESC LIMIT 1
    ) next
) SELECT id FROM path ORDER BY depth DESC LIMIT 1"""

_SIBLINGS = """SELECT m.parent_id, m.id FROM chats_message m
    WHERE m.chat_id = %s AND (m.parent_id = ANY(%s) OR (%s AND m.parent_id IS NULL))
    AND (m.deleted_at IS NULL OR EXISTS (SELECT FROM chats_message c WHERE c.parent_id = m.id))
    ORDER BY m.created_at, m.id"""

#: More than any position.
END = 2**31 - 1


@dataclass
class Window:
    """A stretch of a branch. Each message carries `siblings`, the ids of its place's alternatives in their order."""

    messages: "list[Message]"
    leaf: uuid.UUID | None
    has_older: bool
    has_newer: bool

    @property
    def first(self) -> int:
        """Position of the first message."""
        return self.messages[0].position if self.messages else 0

    @property
    def before(self) -> int:
        """Position up to which the stretch before this one goes."""
        return self.first - 1

    @property
    def beyond(self) -> int:
        """Position up to which the stretch after this one goes."""
        return self.last + WINDOW

    @property
    def last(self) -> int:
        """Position of the last message."""
        return self.messages[-1].position if self.messages else 0


def branch(leaf: uuid.UUID | None, *, upto: int = END, limit: int = END) -> "MessageQuerySet":
    """The messages from `leaf` upwards, in the order in which they are read: the last `limit` up to position `upto`."""
    from aiia_platform.chats.models import Message

    if leaf is None:
        return Message.objects.none()
    return Message.objects.filter(pk__in=RawSQL(_UP, [leaf, upto, limit])).order_by("position")  # noqa: S611


def newest_leaf(message: uuid.UUID) -> uuid.UUID:
    """The end of the branch that goes through a message and, below it, through what is newest."""
    with connection.cursor() as cursor:
        cursor.execute(_DOWN, [message])
        row = cursor.fetchone()
    return row[0] if row else message


def window(chat: "Chat", leaf: uuid.UUID | None, *, upto: int = END, size: int = WINDOW) -> Window:
    """The last `size` messages of a branch up to position `upto`, with their generations and files."""
    found = list(branch(leaf, upto=upto, limit=size + 1).to_read().with_files())
    shown = found[-size:]
    _add_siblings(chat, shown)
    has_newer = bool(shown) and shown[-1].pk != leaf
    return Window(shown, leaf, len(found) > size, has_newer)


def _add_siblings(chat: "Chat", shown: "list[Message]") -> None:
    groups: dict[uuid.UUID | None, list[uuid.UUID]] = defaultdict(list)
    if shown:
        parents = [message.parent_id for message in shown if message.parent_id]
        with connection.cursor() as cursor:
            cursor.execute(_SIBLINGS, [chat.pk, parents, any(message.parent_id is None for message in shown)])
            for parent, pk in cursor.fetchall():
                groups[parent].append(pk)
    for message in shown:
        message.chat = chat
        message.siblings = groups[message.parent_id]
