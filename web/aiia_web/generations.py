"""A running answer: following, stopping and retrying it."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_POST

from aiia_platform.accounts.models import User
from aiia_platform.generations.live import follow
from aiia_platform.generations.models import ChatBusy, Generation, GenerationQuerySet
from aiia_platform.observability import metrics
from aiia_web.access import SignedInRequest, signed_in
from aiia_web.fragments import is_fragment
from aiia_web.streaming import Position, stream


def _of(user: User) -> GenerationQuerySet:
    """The answers in this user's chats."""
    mine = Generation.objects.filter(message__chat__user=user).select_related("message__chat")
    return mine.defer("prompt_ids", "output_ids")


async def events(request: HttpRequest, generation_id: UUID) -> HttpResponseBase:
    """Server-sent events: `blocks`, `reasoning`, `status`, `ping`, and `done` with the answer's footer.

    `Last-Event-ID`, or `after` for a page that was rendered with a part of the answer, says what is already shown.
    """
    user = await request.auser()
    if not isinstance(user, User):
        return HttpResponse("Log in to follow this answer.", status=401, content_type="text/plain; charset=utf-8")
    generation = await _of(user).filter(pk=generation_id).afirst()
    if generation is None:
        raise Http404

    def finish() -> dict[str, str]:
        try:
            ended = _of(user).filter(pk=generation_id).first()
            # A chat may be deleted while somebody reads it.
            footer = render_to_string("components/footer.html", {"message": ended.message}, request) if ended else ""
            beside = {"user": user, "chat": ended.message.chat if ended else None}
            return {"footer": footer, "chats": render_to_string("components/chat_list.html", beside, request)}
        finally:
            close_old_connections()

    async def body() -> AsyncIterator[str]:
        # A request's thread keeps its connection until the response is closed: a few followers would have them all.
        # Given back here rather than above, since middleware may use it after the view.
        await sync_to_async(close_old_connections)()
        with metrics.followers.track_inprogress():
            async with aclosing(parts):
                async for part in parts:
                    yield part

    parts = stream(
        follow(generation_id),
        model=generation.model,
        position=Position.parse(request.headers.get("Last-Event-ID") or request.GET.get("after", "")),
        finish=sync_to_async(finish),
    )
    response = StreamingHttpResponse(body(), content_type="text/event-stream; charset=utf-8")
    response["Cache-Control"] = "no-store"
    # nginx and its kin would hold the text back.
    response["X-Accel-Buffering"] = "no"
    return response


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
