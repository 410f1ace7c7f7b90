"""A message that a page sends after its session ended, new or changed: kept, and a draft again after the login.

It is never sent by itself, and reaches nobody but whom the form was made for: the form says so under a signature. What
another site makes a browser send has no such signature of the person who sits there.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.signals import user_logged_in
from django.contrib.auth.views import redirect_to_login
from django.core.signing import BadSignature, Signer
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import KEPT, MAX_MESSAGE_LENGTH, Chat, Draft
from aiia_web.fragments import is_fragment

#: Chats whose messages one session keeps.
MAX_CHATS = 5
_KEY = "unsent"
# Where forms with an `owner` go.
_ADDRESSES = ("chat-send", "message-edit")
_signer = Signer(salt="aiia_web.unsent")


def owner(user: User, chat_id: UUID) -> str:
    """Whose form it is and of which chat, signed, for its field `owner`."""
    return _signer.sign_object([user.pk, str(chat_id)])


def kept(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Keep what is sent to `view` by who is no longer signed in."""

    @wraps(view)
    def guarded(request: HttpRequest, **address: UUID) -> HttpResponse:
        refused = request.method == "POST" and not request.user.is_authenticated
        return (keep(request, **address) if refused else None) or view(request, **address)

    return guarded


def keep_refused(request: HttpRequest) -> HttpResponse | None:
    """Keep what a form out of date sent. None when it was no message, or when it did not come from our own page."""
    found = request.resolver_match
    is_ours = request.headers.get("Origin") == f"{request.scheme}://{request.get_host()}"
    if not found or found.url_name not in _ADDRESSES or not is_ours:
        return None
    return keep(request, **found.kwargs)


def keep(request: HttpRequest, chat_id: UUID | None = None, **_: UUID) -> HttpResponse | None:
    """Keep the text, and say where it goes on. None where there is nothing that can be kept.

    ``chat_id`` is the chat that the address names, if it does; else the form alone says it.
    """
    text, (user_id, of_chat) = request.POST.get("text", "")[:MAX_MESSAGE_LENGTH], _owner(request)
    if not text.strip() or user_id is None or of_chat is None or is_fragment(request):
        return None
    if chat_id not in (None, of_chat):
        return None
    chat_id = of_chat
    exists = Chat.objects.filter(pk=chat_id, user=user_id, deleted_at=None).exists()
    address = reverse("chat", args=[chat_id]) if exists else reverse("new-chat")
    again = "Your message is in the box again, send it from there"
    if request.FILES:
        again += ". Choose the files once more"
    if isinstance(request.user, User):
        if request.user.pk != user_id:
            return None
        _draft(request.user, chat_id, text)
        messages.warning(request, f"The page was out of date. {again}")
        return redirect(address)
    others = {key: value for key, value in request.session.get(_KEY, {}).items() if key != str(chat_id)}
    this = {str(chat_id): {"user": user_id, "text": text, "at": time.time()}}
    request.session[_KEY] = dict(list((others | this).items())[-MAX_CHATS:])
    messages.warning(request, f"You were signed out. Log in. {again}")
    return redirect_to_login(address)


@receiver(user_logged_in)
def give_back(request: HttpRequest, user: User, **_: Any) -> None:
    """Make drafts of what this session kept for this user. What it kept for others is forgotten."""
    for chat_id, found in request.session.pop(_KEY, {}).items():
        if found["user"] == user.pk and time.time() - found["at"] < KEPT.total_seconds():
            _draft(user, UUID(chat_id), found["text"])


def _draft(user: User, chat_id: UUID, text: str) -> None:
    """Below what was typed elsewhere meanwhile."""
    known = Draft.objects.filter(pk=chat_id, user=user).values_list("text", flat=True).first()
    Draft.keep(user, chat_id, f"{known}\n\n{text}" if known and known.strip() not in text else text)


def _owner(request: HttpRequest) -> tuple[int, UUID] | tuple[None, None]:
    try:
        user_id, chat_id = _signer.unsign_object(request.POST.get("owner", ""))
    except (BadSignature, ValueError):
        return None, None
    return int(user_id), UUID(chat_id)
