"""`/api/chats/{id}/messages/{id}/events/`: an answer for programs, as it is written."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase
from django.views.decorators.http import require_safe

from aiia_platform import sse
from aiia_platform.accounts.models import User
from aiia_platform.api import caller
from aiia_platform.chats.models import Message
from aiia_platform.db import in_db
from aiia_platform.generations.live import End, Event, Reasoning, Status, Text, follow, load
from aiia_platform.generations.models import Generation
from aiia_platform.generations.position import Position
from aiia_platform.observability import metrics
from aiia_platform.problems import Problem


@require_safe
async def events(request: HttpRequest, chat_id: UUID, message_id: UUID) -> HttpResponseBase:
    """Events `text` and `reasoning` with `{"at", "text"}`: from character `at` on, the answer reads so. `status` with
    the phase, such as `{"phase": "queued", "position", "eta_s"}`. `end` with the state, and what was used.

    `Last-Event-ID`, or `?after=`, goes on from there; without either, all that is written comes first.
    """
    try:
        user = await caller(request)
        if not isinstance(user, User):
            raise Problem(403, "Forbidden", "Only people have chats.")
        mine = Message.objects.of(user).filter(chat_id=chat_id, pk=message_id)
        generation_id = await mine.values_list("generation", flat=True).afirst()
        if generation_id is None:
            raise Problem(404, "Not found", "No such answer.")
    except Problem as refusal:
        return refusal.response()
    position = Position.parse(sse.resumed(request))
    return sse.response(_frames(generation_id, position))


async def _frames(generation_id: UUID, position: Position | None) -> AsyncGenerator[str]:
    reader = _Reader(position)
    yield "retry: 1000\n\n"
    with metrics.followers.track_inprogress():
        async with aclosing(follow(generation_id)) as found:  # type: ignore[type-var]  # it is a generator
            async for event in found:
                for part in reader.frames(event):
                    yield part
    try:
        ended = await load(generation_id)
    except Generation.DoesNotExist:
        yield sse.frame("end", {"state": Generation.State.STOPPED}, reader.place)
    else:
        yield sse.frame("end", await in_db(_outcome, ended), reader.place)


def _outcome(generation: Generation) -> dict[str, Any]:
    names = ("state", "error", "advice", "finish_reason", "duration_s")
    cost = generation.cost
    usage = {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "cost": None if cost is None else str(cost),
    }
    return {name: getattr(generation, name) for name in names} | {"usage": usage}


class _Reader:
    """What one program has of an answer."""

    def __init__(self, position: Position | None) -> None:
        self._position = position
        self._attempt = 0
        self._now = {"text": "", "reasoning": ""}
        self._has: dict[str, str | None] = {"text": "", "reasoning": ""}

    @property
    def place(self) -> Position:
        return Position.of(self._attempt, self._now["text"], self._now["reasoning"])

    def frames(self, event: Event) -> list[str]:
        match event:
            case Text() | Reasoning():
                kind = "text" if isinstance(event, Text) else "reasoning"
                self._attempt = event.attempt
                self._now[kind] = self._now[kind][: event.offset] + event.text
                return self._news(final=False)
            case Status():
                return [sse.frame("status", event.detail)]
            case End():
                return self._news(final=True)
            case _:
                return [": still here\n\n"]

    def _news(self, *, final: bool) -> list[str]:
        if self._position:
            if self._position.is_ahead(self._attempt, self._now["text"]) and not final:
                return []
            seen = self._position.seen(self._now["text"], self._now["reasoning"])
            # Another text: it begins anew, at its first character.
            self._has = dict(zip(("text", "reasoning"), seen or (None, None), strict=True))
            self._position = None
        changes = []
        for kind in ("reasoning", "text"):
            now, has = self._now[kind], self._has[kind]
            if now != has:
                at = len(has) if has and now.startswith(has) else 0
                changes.append((kind, {"at": at, "text": now[at:]}))
                self._has[kind] = now
        # Only the last one carries the id: who has it has them all.
        return [sse.frame(kind, data, self.place if (kind, data) == changes[-1] else None) for kind, data in changes]
