"""What can be done with a chat as a whole."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from aiia_platform.chats.models import Chat, Draft, Stale
from aiia_platform.chats.params import NUMBERS, STRATEGIES
from aiia_platform.config import config
from aiia_web.access import SignedInRequest, signed_in
from aiia_web.fragments import is_fragment


def _chat(request: SignedInRequest, pk: UUID) -> Chat:
    return get_object_or_404(Chat.objects.of(request.user), pk=pk)


@signed_in
@require_POST
def draft(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Keep what was typed and not sent."""
    if Chat.objects.filter(pk=chat_id).exclude(user=request.user).exists():
        raise Http404
    Draft.keep(request.user, chat_id, request.POST.get("text", ""))
    return HttpResponse(status=204)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Its name, system prompt, parameters and what is sent of a long conversation."""
    chat = _chat(request, chat_id)
    if request.method != "POST":
        return _form(request, chat)
    post = request.POST
    fields = {
        "title": post.get("title", ""),
        "tags": post.get("tags", "").split(","),
        "system_prompt": post.get("system_prompt", ""),
        "params": {name: post.get(name) for name in NUMBERS}
        | {"stop": [line for line in post.get("stop", "").splitlines() if line]},
        "context": {name: post.get(name) for name in ("strategy", "messages", "tokens")},
    }
    try:
        chat.change(int(post.get("version", "0")), **fields)
    except Stale as stale:
        return _form(request, stale.current, "It was changed elsewhere meanwhile. Check it and save again", 409, post)
    except ValidationError as error:
        words = [f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items()]
        return _form(request, chat, " ".join(words), 422, post)
    except ValueError:
        return _form(request, chat, "Save again", 422, post)
    return redirect("chat", chat.pk)


def _form(request: SignedInRequest, chat: Chat, error: str = "", status: int = 200, kept: Any = None) -> HttpResponse:
    values = {
        "title": chat.title,
        "tags": ", ".join(chat.tags),
        "system_prompt": chat.system_prompt,
        "stop": "\n".join(chat.params.get("stop", [])),
        "strategy": "auto",
    } | chat.context
    values |= {name: kept.get(name, "") for name in (*values, *NUMBERS, "messages", "tokens")} if kept else {}
    given = kept or chat.params
    numbers = [(name, name.replace("_", " "), given.get(name, ""), *bounds) for name, bounds in NUMBERS.items()]
    page = {"chat": chat, "values": values, "numbers": numbers, "strategies": STRATEGIES.items(), "error": error}
    return render(
        request, "chats/edit.html", page | {"totals": chat.totals(), "currency": config().currency}, status=status
    )


@signed_in
@require_POST
def pin(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Put it on top of the list, or back."""
    chat = _chat(request, chat_id)
    chat.change(is_pinned=not chat.is_pinned)
    return redirect("chat", chat.pk)


@signed_in
@require_POST
def archive(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Take it out of the lists, or back."""
    chat = _chat(request, chat_id)
    chat.change(is_archived=chat.archived_at is None)
    messages.success(request, "Archived" if chat.archived_at else "Back in the list")
    return redirect("chat", chat.pk)


@signed_in
@require_POST
def restore(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Bring a deleted chat back."""
    chat = get_object_or_404(Chat.objects.trashed(request.user), pk=chat_id)
    chat.restore()
    return redirect("chat", chat.pk)


@signed_in
@require_POST
def duplicate(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """A copy with every branch."""
    return redirect("chat", _chat(request, chat_id).duplicate().pk)


@signed_in
@require_POST
def stop(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Stop all that is being written in it."""
    _chat(request, chat_id).stop()
    # The page hears of the end from the streams that it follows.
    return HttpResponse(status=204) if is_fragment(request) else redirect("chat", chat_id)


@signed_in
@require_POST
def bulk(request: SignedInRequest) -> HttpResponse:
    """Archive, delete or bring back several chats."""
    try:
        ids = [UUID(value) for value in request.POST.getlist("chat")]
    except ValueError as error:
        raise Http404 from error
    mine = Chat.objects.filter(user=request.user, pk__in=ids)
    match request.POST.get("verb"):
        case "archive":
            for chat in mine.filter(deleted_at=None):
                chat.change(is_archived=True)
        case "unarchive":
            for chat in mine.filter(deleted_at=None):
                chat.change(is_archived=False)
        case "delete":
            for chat in mine.filter(deleted_at=None):
                chat.trash()
        case "restore":
            for chat in Chat.objects.trashed(request.user).filter(pk__in=ids):
                chat.restore()
    return redirect(f"/chats/?show={request.POST.get('show', '')}" if request.POST.get("show") else "chats")
