"""A running answer: following, stopping and retrying it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_POST

from aiia_platform import sse
from aiia_platform.accounts.models import User
from aiia_platform.afterwords.live import settled
from aiia_platform.afterwords.models import Afterword
from aiia_platform.db import in_db
from aiia_platform.generations.live import follow
from aiia_platform.generations.models import ChatBusy, Generation, GenerationQuerySet
from aiia_platform.generations.position import Position
from aiia_platform.observability import metrics
from aiia_web.access import SignedInRequest, signed_in
from aiia_web.afterwords import follow_ups
from aiia_web.fragments import is_fragment
from aiia_web.gauge import gauge
from aiia_web.streaming import stream


def _of(user: User) -> GenerationQuerySet:
    """The answers in this user's chats."""
    mine = Generation.objects.filter(message__chat__user=user).select_related("message__chat")
    return mine.defer("prompt_ids", "output_ids")


async def events(request: HttpRequest, generation_id: UUID) -> HttpResponseBase:
    """Server-sent events: `blocks`, `reasoning`, `status`, `ping`, and `done` with the answer's footer. Where there is
    `more`, `afterword` comes after it, with what a model said of the chat then.

    `Last-Event-ID`, or `after` for a page that was rendered with a part of the answer, says what is already shown.
    """
    user, generation = await sync_to_async(_reader)(request, generation_id)
    if user is None:
        return HttpResponse("Log in to follow this answer.", status=401, content_type="text/plain; charset=utf-8")
    if generation is None:
        raise Http404

    more = False

    def finish() -> dict[str, Any]:
        nonlocal more
        ended = _of(user).filter(pk=generation_id).first()
        # A chat may be deleted while somebody reads it.
        footer = render_to_string("components/footer.html", {"message": ended.message}, request) if ended else ""
        more = Afterword.objects.filter(pk=generation_id).exists()
        parts = _parts(request, ended)
        if ended:
            parts["gauge"] = render_to_string("components/gauge.html", gauge(ended.message), request)
        return {"footer": footer, "more": more, "parts": parts, "summary": _summary(request, ended)}

    def afterword() -> dict[str, Any]:
        ended = _of(user).select_related("afterword").filter(pk=generation_id).first()
        if ended is None:
            return {}
        chat = ended.message.chat
        suggested = render_to_string("components/follow_ups.html", follow_ups(ended.message, chat.leaf), request)
        return {"follow_ups": suggested.strip(), "title": chat.title, "parts": _parts(request, ended)}

    async def body() -> AsyncGenerator[str]:
        with metrics.followers.track_inprogress():
            async with aclosing(parts):
                async for part in parts:
                    yield part
            if more:
                async for _ in settled(generation_id):
                    yield sse.frame("ping", {})
                yield sse.frame("afterword", await in_db(afterword))

    parts = stream(
        follow(generation_id),
        model=generation.model,
        position=Position.parse(sse.resumed(request)),
        finish=partial(in_db, finish),
    )
    return sse.response(body())


def _reader(request: HttpRequest, generation_id: UUID) -> tuple[User | None, Generation | None]:
    """Who asks, and the answer where it is theirs: together, since each way into the database takes its time."""
    user = request.user
    if not isinstance(user, User):
        return None, None
    return user, _of(user).filter(pk=generation_id).first()


def _parts(request: HttpRequest, generation: Generation | None) -> dict[str, str]:
    """Parts of the page that an ended answer changes, by their ids."""
    context = {"user": request.user, "chat": generation.message.chat if generation else None}
    return {"chats": render_to_string("components/chat_list.html", context, request)}


def _summary(request: HttpRequest, generation: Generation | None) -> dict[str, str]:
    """The mark of what the answer was made of instead of older messages, and the message below which it stands."""
    message = generation.message if generation else None
    if message is None or not (summary := message.chat.summary(message.pk)):
        return {}
    context = {"summary": summary, "leaf": message.pk}
    mark = render_to_string("components/summary_marker.html", context, request)
    return {"below": f"message-{summary.message_id}", "html": mark}


@signed_in
@require_POST
def stop(request: SignedInRequest, generation_id: UUID) -> HttpResponse:
    """Stop writing; what is there stays."""
    generation = get_object_or_404(_of(request.user), pk=generation_id)
    generation.stop()
    # The page hears of the end from the stream that it follows.
    return HttpResponse(status=204) if is_fragment(request) else redirect("chat", generation.message.chat_id)


@signed_in
@require_POST
def retry(request: SignedInRequest, generation_id: UUID) -> HttpResponse:
    """Go on with an answer that failed or was stopped."""
    generation = get_object_or_404(_of(request.user), pk=generation_id)
    try:
        generation.retry()
    except ChatBusy:
        return HttpResponse(
            "Another answer is being written in this chat. Wait for it or stop it, then retry",
            status=409,
            content_type="text/plain; charset=utf-8",
        )
    if not is_fragment(request):
        return redirect("chat", generation.message.chat_id)
    return render(request, "components/message.html", {"message": generation.message})
