"""The chat pages."""

from typing import Any
from uuid import UUID, uuid4

from django.contrib import messages
from django.core.exceptions import BadRequest, ValidationError
from django.core.paginator import Paginator
from django.db import transaction
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from aiia_platform.chats.files import MAX_FILE
from aiia_platform.chats.models import MAX_FILES, Attachment, Chat, Draft, Message
from aiia_platform.chats.tree import END, Window
from aiia_platform.generations.models import ChatBusy, Generation
from aiia_web.access import SignedInRequest, signed_in
from aiia_web.afterwords import follow_ups
from aiia_web.catalogue import Picker
from aiia_web.fragments import is_at, is_fragment
from aiia_web.gauge import gauge
from aiia_web.unsent import kept, owner

PER_PAGE = 50


def _page(request: SignedInRequest, chat: Chat | None, *, status: int = 200, **context: Any) -> HttpResponse:
    """The chat page: what was said, and the composer with ids for the next message."""
    window = _window(request, chat) if chat else None
    turns = window.messages if window else []
    newest = turns[-1] if turns else None
    last = getattr(newest, "generation", None)
    preferred = "" if chat else request.user.choices.llm_preferences.get("model", "")
    wanted = (
        context.get("model")
        or last
        or preferred
        or Generation.objects.filter(user=request.user).order_by("queued_at").last()
    )
    summary = chat.summary(window.leaf) if chat and window else None
    draft = None
    if "text" not in context:
        draft = Draft.objects.filter(pk=chat.pk, user=request.user).first() if chat else Draft.unsent(request.user)
    page = {
        "chat": chat,
        "chat_id": chat.id if chat else draft.pk if draft else uuid4(),
        "turns": turns,
        "window": window,
        "beside": _beside(window) if window else [],
        "after": window.leaf if window else None,
        "text": draft.text if draft else "",
        "temporary": not chat and "temporary" in request.GET,
        "running": any(_is_running(turn) for turn in turns),
        "awaited": newest.pk if newest and newest.afterword and newest.afterword.is_pending else None,
        "picker": Picker(wanted if isinstance(wanted, str) else wanted.model if wanted else ""),
        "message_id": uuid4(),
    }
    page |= follow_ups(newest, chat.leaf if chat else None) | gauge(newest) | {"summary": summary}
    page |= context
    page["owner"] = owner(request.user, UUID(str(page["chat_id"])))
    return render(request, "chats/chat.html", page, status=status)


def _window(request: SignedInRequest, chat: Chat) -> Window:
    """The part of a chat that the address asks for: `branch`, a message that it goes through, `upto`, a position."""
    try:
        through = UUID(request.GET["branch"]) if request.GET.get("branch") else None
        upto = min(END, int(request.GET.get("upto", END)))
        return chat.window(through, upto=upto)
    except (ValueError, Chat.DoesNotExist) as error:
        raise Http404 from error


def _beside(window: Window) -> list[Message]:
    """Several answers to the last question, of which none was chosen yet."""
    last = window.messages[-1] if window.messages else None
    if last is None or not last.is_beside or window.has_newer:
        return []
    found = Message.objects.filter(pk__in=last.siblings, is_beside=True, deleted_at=None)
    return list(found.to_read().order_by("created_at"))


def _is_running(message: Message) -> bool:
    generation: Generation | None = getattr(message, "generation", None)
    return bool(generation and generation.is_active)


@signed_in
@require_safe
def new(request: SignedInRequest) -> HttpResponse:
    """An empty chat. It comes into being with its first message."""
    return _page(request, None)


@signed_in
@require_safe
def show(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """A chat with all that was said."""
    return _page(request, get_object_or_404(Chat.objects.of(request.user), pk=chat_id))


@signed_in
@require_safe
def index(request: SignedInRequest) -> HttpResponse:
    """All chats, page by page."""
    show = request.GET.get("show", "")
    chats = {
        "archived": Chat.objects.of(request.user).filter(archived_at__isnull=False),
        "deleted": Chat.objects.trashed(request.user),
    }.get(show, Chat.objects.listed(request.user))
    page = Paginator(chats, PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "chats/index.html", {"page": page, "show": show})


@kept
@signed_in
@require_POST
def send(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Accept a message. A repeated one changes nothing and is answered alike."""
    text, model = request.POST.get("text", ""), request.POST.get("model", "")
    try:
        message_id = UUID(request.POST.get("message_id", ""))
        # What its sender has seen last: where the chat went on meanwhile, this begins a branch.
        after = UUID(request.POST["after"]) if request.POST.get("after") else None
    except ValueError as error:
        raise BadRequest from error
    try:
        with transaction.atomic():
            generation = Chat.send(
                user=request.user,
                chat_id=chat_id,
                message_id=message_id,
                text=text,
                model=model,
                after=after,
                temporary="temporary" in request.POST,
                attachments=_files(request, message_id),
            )
    except Chat.DoesNotExist as error:
        raise Http404 from error
    except ValidationError as error:
        return _refuse(request, chat_id, 422, error.messages[0])
    except ChatBusy:
        return _refuse(request, chat_id, 409, "An answer is being written. Wait for it or stop it, then send again")
    if not is_fragment(request):
        return redirect(f"{reverse('chat', args=[chat_id])}#end")
    answer = generation.message
    context = {
        "chat": answer.chat,
        "question": answer.parent,
        "answer": answer,
        "message_id": uuid4(),
        "after": answer.pk,
    }
    response = render(request, "chats/sent.html", context)
    address = reverse("chat", args=[chat_id])
    if not is_at(request, address):
        response["HX-Push-Url"] = address
    return response


def _files(request: SignedInRequest, message_id: UUID) -> list[UUID]:
    """The chosen files, stored; none for a message that is repeated."""
    # One more than may be, so that too many are refused without being read.
    chosen = request.FILES.getlist("files")[: MAX_FILES + 1]
    if not chosen or Message.objects.filter(pk=message_id).exists():
        return []
    if any((file.size or 0) > MAX_FILE for file in chosen):
        raise ValidationError(f"A file holds {MAX_FILE // 1024 // 1024} MB at most.", code="too_large")
    return Attachment.store_all(request.user, [(file.name or "file", file.read()) for file in chosen])


@signed_in
@require_safe
def file(request: SignedInRequest, file_id: UUID) -> HttpResponse:
    """A file of a message: a picture as itself, a text to be saved."""
    return get_object_or_404(Attachment, pk=file_id, user=request.user).response()


def _refuse(request: SignedInRequest, chat_id: UUID, status: int, error: str) -> HttpResponse:
    """Say why a message was not accepted, and keep what was typed."""
    if is_fragment(request):
        response = HttpResponse(error, status=status, content_type="text/plain; charset=utf-8")
        response["HX-Retarget"] = "#composer-error"
        response["HX-Reswap"] = "textContent"
        return response
    chat = Chat.objects.of(request.user).filter(pk=chat_id).first()
    kept = {name: request.POST.get(name, "") for name in ("text", "message_id", "model", "after")}
    return _page(request, chat, status=status, error=error, chat_id=chat_id, **kept)


@signed_in
def delete(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Ask, then delete."""
    chat = get_object_or_404(Chat.objects.of(request.user), pk=chat_id)
    if request.method == "POST":
        chat.trash()
        # The toast has the button that brings it back.
        messages.success(request, f"Deleted “{chat.title}”", extra_tags=f"undo:{chat.pk}")
        return redirect("new-chat")
    return render(request, "chats/delete_dialog.html" if is_fragment(request) else "chats/delete.html", {"chat": chat})
