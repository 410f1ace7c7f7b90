"""`/api/models/events/`: what happens to models, as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.http import require_safe

from aiia_platform import sse
from aiia_platform.api import caller
from aiia_platform.catalogue import manager
from aiia_platform.problems import Problem

#: Seconds: how long the manager is asked to wait for news, after which a comment shows that the line is alive, and
#: after which it is asked again when it was away.
WAIT = 10.0
AGAIN = 1.0


@require_safe
async def events(request: HttpRequest) -> HttpResponseBase:
    """Events of type `model` with `{"n", "at", "model", "state", "previous", "reason"}`, and `n` as their id.

    `state` is null for a model that is gone, `at` in seconds since 1970.

    `Last-Event-ID`, or `?after=`, goes on from there; without either, what the manager still remembers comes first.
    Who accepts JSON alone gets `{"last": n, "events": […]}`, which ends.
    """
    given = sse.resumed(request)
    after = int(given) if given.isdecimal() else 0
    try:
        await caller(request)
        news = await manager.events(after, 0)
    except Problem as refusal:
        return refusal.response()
    if request.headers.get("Accept") == "application/json":
        return JsonResponse(news)
    return sse.response(_frames(news, after))


async def _frames(news: dict[str, Any], after: int) -> AsyncGenerator[str]:
    yield ": connected\n\n"
    while True:
        for event in news["events"]:
            yield sse.frame("model", event, event["n"])
        # A manager that was started anew counts from the beginning.
        after = news["last"]
        try:
            news = await manager.events(after, WAIT)
        except Problem:
            news = {"last": after, "events": []}
            await asyncio.sleep(AGAIN)
        if not news["events"]:
            yield ": nothing new\n\n"
