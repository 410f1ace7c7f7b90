"""The chat pages."""

from typing import Any
from uuid import UUID, uuid4

from django.contrib import messages
from django.core.exceptions import BadRequest, ValidationError
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from aiia_platform.chats.models import Chat
from aiia_platform.generations.models import ChatBusy, Generation
from aiia_web.access import SignedInRequest, signed_in
from aiia_web.catalogue import Picker
from aiia_web.fragments import is_fragment

PER_PAGE = 50


def _page(request: SignedInRequest, chat: Chat | None, *, status: int = 200, **context: Any) -> HttpResponse:
    """The chat page: what was said, and the composer with ids for the next message."""
    # The ids of what was read and written are long and no page shows them.
    turns = (
        list(chat.messages.select_related("generation").defer("generation__prompt_ids", "generation__output_ids"))
        if chat
        else []
    )
    last = getattr(turns[-1], "generation", None) if turns else None
    wanted = context.get("model") or (last or Generation.objects.filter(user=request.user).order_by("queued_at").last())
    page = {
        "chat": chat,
        "chat_id": chat.id if chat else uuid4(),
        "turns": turns,
        "running": last if last and last.is_active else None,
        "picker": Picker(wanted if isinstance(wanted, str) else wanted.model if wanted else ""),
        "message_id": uuid4(),
    }
    return render(request, "chats/chat.html", page | context, status=status)


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
    page = Paginator(Chat.objects.of(request.user), PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "chats/index.html", {"page": page})


@signed_in
@require_POST
def send(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Accept a message. A repeated one changes nothing and is answered alike."""
    text, model = request.POST.get("text", ""), request.POST.get("model", "")
    try:
        message_id = UUID(request.POST.get("message_id", ""))
    except ValueError as error:
        raise BadRequest from error
    try:
        generation = Chat.send(user=request.user, chat_id=chat_id, message_id=message_id, text=text, model=model)
    except Chat.DoesNotExist as error:
        raise Http404 from error
    except ValidationError as error:
        return _refuse(request, chat_id, 422, error.messages[0])
    except ChatBusy:
        return _refuse(request, chat_id, 409, "An answer is being written. Wait for it or stop it, then send again")
    chat = Chat.objects.get(pk=chat_id)
    if not is_fragment(request):
        return redirect(f"{reverse('chat', args=[chat_id])}#end")
    answer = generation.message
    context = {"chat": chat, "question": answer.parent, "answer": answer, "message_id": uuid4()}
    response = render(request, "chats/sent.html", context)
    response["HX-Push-Url"] = reverse("chat", args=[chat_id])
    return response


def _refuse(request: SignedInRequest, chat_id: UUID, status: int, error: str) -> HttpResponse:
    """Say why a message was not accepted, and keep what was typed."""
    if is_fragment(request):
        response = HttpResponse(error, status=status, content_type="text/plain; charset=utf-8")
        response["HX-Retarget"] = "#composer-error"
        response["HX-Reswap"] = "textContent"
        return response
    chat = Chat.objects.of(request.user).filter(pk=chat_id).first()
    kept = {name: request.POST.get(name, "") for name in ("text", "message_id", "model")}
    return _page(request, chat, status=status, error=error, chat_id=chat_id, **kept)


@signed_in
def delete(request: SignedInRequest, chat_id: UUID) -> HttpResponse:
    """Ask, then delete."""
    chat = get_object_or_404(Chat.objects.of(request.user), pk=chat_id)
    if request.method == "POST":
        chat.delete()
        messages.success(request, f"Deleted “{chat.title}”")
        return redirect("new-chat")
    return render(request, "chats/delete_dialog.html" if is_fragment(request) else "chats/delete.html", {"chat": chat})
