"""What can be done with a message: other wordings and answers, forks, changes and what was sent for it."""

from typing import Any
from uuid import UUID, uuid4

from django.contrib import messages
from django.core.exceptions import BadRequest, ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from aiia_platform.chats.models import Chat, Message, Stale
from aiia_platform.config import config
from aiia_platform.generations.models import ChatBusy, Sent
from aiia_web.access import SignedInRequest, signed_in
from aiia_web.catalogue import Picker
from aiia_web.unsent import kept, owner

BUSY = "An answer is being written. Wait for it or stop it, then try again"


def _message(request: SignedInRequest, pk: UUID) -> Message:
    return get_object_or_404(Message.objects.of(request.user).select_related("chat", "generation"), pk=pk)


def _show(message: Message) -> HttpResponse:
    return redirect(f"{reverse('chat', args=[message.chat_id])}?branch={message.pk}#message-{message.pk}")


def _version(request: SignedInRequest) -> int:
    try:
        return int(request.POST["version"])
    except (KeyError, ValueError) as error:
        raise BadRequest from error


@kept
@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: SignedInRequest, message_id: UUID) -> HttpResponse:
    """Another wording of a question, which is answered anew; or other words in an answer."""
    message = _message(request, message_id)
    if message.role == Message.Role.ASSISTANT:
        return _edit_answer(request, message)
    if request.method != "POST":
        return _form(request, message, text=message.text)
    text, model = request.POST.get("text", ""), request.POST.get("model", "")
    try:
        new = UUID(request.POST.get("message_id", ""))
    except ValueError as error:
        raise BadRequest from error
    try:
        generation = Chat.send(
            user=request.user, chat_id=message.chat_id, message_id=new, text=text, model=model, instead_of=message.pk
        )
    except Chat.DoesNotExist as error:
        raise Http404 from error
    except ValidationError as error:
        return _form(request, message, text=text, error=error.messages[0], status=422)
    except ChatBusy:
        return _form(request, message, text=text, error=BUSY, status=409)
    return _show(generation.message)


def _edit_answer(request: SignedInRequest, message: Message) -> HttpResponse:
    if request.method != "POST":
        return _form(request, message, text=message.text)
    text = request.POST.get("text", "")
    try:
        message.edit(text, _version(request))
    except Stale as stale:
        error = "It was changed elsewhere meanwhile. Your words are below, and what it says now is above them"
        return _form(request, stale.current, text=text, error=error, current=stale.current.text, status=409)
    except ValidationError as error:
        return _form(request, message, text=text, error=error.messages[0], status=422)
    except ChatBusy:
        return _form(request, message, text=text, error=BUSY, status=409)
    return _show(message)


def _form(request: SignedInRequest, message: Message, *, status: int = 200, **more: Any) -> HttpResponse:
    generation = getattr(message, "generation", None)
    if generation is None and (answer := message.children.select_related("generation").last()):
        generation = getattr(answer, "generation", None)
    page = {
        "chat": message.chat,
        "message": message,
        "picker": Picker(generation.model if generation else ""),
        "message_id": uuid4(),
        "owner": owner(request.user, message.chat_id),
    }
    return render(request, "chats/edit_message.html", page | more, status=status)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def again(request: SignedInRequest, message_id: UUID) -> HttpResponse:
    """Another answer to a question, or to the one of an answer: by any model, several at once, in other ways."""
    message = _message(request, message_id)
    question = message if message.role == Message.Role.USER else message.parent
    if question is None:
        raise Http404
    if request.method != "POST":
        generation = getattr(message, "generation", None)
        page = {"chat": message.chat, "message": message, "answer_id": uuid4()}
        return render(request, "chats/again.html", page | {"picker": Picker(generation.model if generation else "")})
    post = request.POST
    try:
        answer_id, count = UUID(post.get("answer_id", "")), int(post.get("count") or 1)
    except ValueError as error:
        raise BadRequest from error
    params = {name: post.get(name) for name in ("temperature", "top_p", "max_tokens", "seed") if post.get(name)}
    try:
        generation = message.chat.regenerate(
            question.pk,
            answer_id=answer_id,
            model=post.get("model", ""),
            beside=post.getlist("beside"),
            count=count,
            params=params,
        )
    except Chat.DoesNotExist as error:
        raise Http404 from error
    except (ValidationError, ChatBusy) as error:
        messages.error(request, BUSY if isinstance(error, ChatBusy) else error.messages[0])
        return _show(message)
    return _show(generation.message)


@signed_in
@require_POST
def choose(request: SignedInRequest, message_id: UUID) -> HttpResponse:
    """Go on with this one of several answers."""
    message = _message(request, message_id)
    message.chat.choose(message.pk)
    return _show(message)


@signed_in
@require_POST
def fork(request: SignedInRequest, message_id: UUID) -> HttpResponse:
    """A new chat that begins with this one up to the message."""
    message = _message(request, message_id)
    return redirect("chat", message.chat.fork(message.pk).pk)


@signed_in
@require_POST
def delete(request: SignedInRequest, message_id: UUID) -> HttpResponse:
    """Take a message out of the conversation; its place says so and can bring it back."""
    message = _message(request, message_id)
    try:
        message.remove(_version(request))
    except Stale:
        messages.error(request, "It was changed elsewhere meanwhile. Read it again, then delete it")
    return _show(message)


@signed_in
@require_POST
def restore(request: SignedInRequest, message_id: UUID) -> HttpResponse:
    """Bring a deleted message back."""
    message = _message(request, message_id)
    message.restore()
    return _show(message)


@signed_in
@require_safe
def sent(request: SignedInRequest, message_id: UUID) -> HttpResponse:
    """The exact messages that the model was sent for an answer."""
    message = _message(request, message_id)
    found = Sent.objects.filter(generation__message=message).first()
    page = {"chat": message.chat, "message": message, "sent": found, "currency": config().currency}
    return render(request, "chats/what_was_sent.html", page)
