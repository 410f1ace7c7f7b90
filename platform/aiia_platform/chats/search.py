"""Full-text search over what a user's chats say. The index is written with the message, so that the two never drift."""

import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib.postgres.search import SearchHeadline, SearchQuery
from django.db.models import F, QuerySet
from django.db.models.functions import Left

from aiia_platform.chats.models import SEARCHED, Chat, Message

if TYPE_CHECKING:
    from aiia_platform.accounts.models import User

LIMIT = 20
#: Around what was found, in a snippet; no text holds them, since NUL's neighbours are no letters.
OPEN, CLOSE = "\x02", "\x03"


@dataclass(frozen=True)
class Hit:
    """A message that holds the words. `snippet` is pairs of text and whether it was searched for."""

    message_id: uuid.UUID
    chat_id: uuid.UUID
    title: str
    role: str
    created_at: datetime
    snippet: list[tuple[str, bool]]
    #: Position up to which a page of the chat shows it with what follows.
    upto: int


def query(text: str) -> SearchQuery | None:
    """All of the words, the last one as a beginning, since it may still be typed."""
    words = re.findall(r"\w+", text)[:20]
    if not words:
        return None
    return SearchQuery(" & ".join([*words[:-1], f"{words[-1]}:*"]), search_type="raw", config="simple")


def find(
    user: "User", text: str, *, since: Any = None, until: Any = None, model: str = "", limit: int = LIMIT
) -> list[Hit]:
    """The newest messages with these words. `since` and `until` are days (UTC), both included."""
    wanted = query(text)
    if wanted is None:
        return []
    found = _filtered(Message.objects.filter(user=user, search=wanted, deleted_at=None), since, until, model)
    found = found.filter(chat__deleted_at=None, chat__is_temporary=False).order_by("-created_at")[:limit]
    # Only what is shown is read and cut, however much is found.
    headline = SearchHeadline(
        Left("text", SEARCHED),
        wanted,
        config="simple",
        start_sel=OPEN,
        stop_sel=CLOSE,
        max_words=30,
        min_words=12,
        max_fragments=2,
    )
    shown = Message.objects.filter(pk__in=[pk for (pk,) in found.values_list("pk")])
    rows = shown.annotate(headline=headline, title=F("chat__title")).order_by("-created_at")
    return [
        Hit(row.pk, row.chat_id, row.title, row.role, row.created_at, snippet(row.headline), row.position + 20)  # type: ignore[attr-defined]
        for row in rows.defer("text", "reasoning", "search")
    ]


def titles(user: "User", text: str, limit: int = LIMIT) -> "QuerySet[Chat]":
    """Chats whose title holds the text."""
    text = text.replace("\0", "").strip()
    if not text:
        return Chat.objects.none()
    return Chat.objects.of(user).filter(is_temporary=False, title__icontains=text)[:limit]


def snippet(headline: str) -> list[tuple[str, bool]]:
    """A headline as pairs of text and whether it was searched for."""
    parts = re.split(f"[{OPEN}{CLOSE}]", headline)
    return [(part, bool(i % 2)) for i, part in enumerate(parts) if part]


def _filtered(found: "QuerySet[Message]", since: Any, until: Any, model: str) -> "QuerySet[Message]":
    if since:
        found = found.filter(created_at__date__gte=since)
    if until:
        found = found.filter(created_at__date__lte=until)
    if model:
        found = found.filter(generation__model=model.replace("\0", ""))
    return found
