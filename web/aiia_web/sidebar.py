"""The list of chats beside every page."""

from collections.abc import Iterator
from datetime import date
from itertools import groupby

from django.utils import timezone

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat

#: Chats in the sidebar; all of them are on a page of their own.
SHOWN = 60


def period(day: date, today: date) -> str:
    """The heading under which a chat of that day stands."""
    match (today - day).days:
        case days if days <= 0:
            return "Today"
        case 1:
            return "Yesterday"
        case days if days <= 7:
            return "Last 7 days"
    return f"{day:%B}" if day.year == today.year else f"{day:%B %Y}"


class Sidebar:
    """The newest chats of a user."""

    def __init__(self, user: User) -> None:
        found = list(Chat.objects.listed(user).with_activity().order_by("-is_pinned", "-updated_at")[: SHOWN + 1])
        self.chats, self.has_more = found[:SHOWN], len(found) > SHOWN

    def groups(self) -> Iterator[tuple[str, list[Chat]]]:
        """The chats under their headings."""
        today = timezone.localdate()

        def heading_of(chat: Chat) -> str:
            return "Pinned" if chat.is_pinned else period(timezone.localdate(chat.updated_at), today)

        for heading, chats in groupby(self.chats, heading_of):
            yield heading, list(chats)
