"""`/api/models/events/`: what happens to models, as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.views.decorators.http import require_safe
from rest_framework.exceptions import AuthenticationFailed  # type: ignore[import-untyped]

from aiia_platform.api import caller
from aiia_platform.catalogue import manager
from aiia_platform.problems import Problem, problem

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
    try:
        user = await caller(request)
    except AuthenticationFailed as error:
        return problem(401, "Unauthorized", str(error.detail))
    if user is None:
        return problem(401, "Unauthorized", "Log in, or send an API key.")
    given = request.headers.get("Last-Event-ID") or request.GET.get("after", "0")
    after = int(given) if given.isdecimal() else 0
    try:
        news = await manager.events(after, 0)
    except Problem as refusal:
        return refusal.response()
    if request.headers.get("Accept") == "application/json":
        return JsonResponse(news)
    response = StreamingHttpResponse(_frames(news, after), content_type="text/event-stream; charset=utf-8")
    response["Cache-Control"] = "no-store"
    # nginx and its kin would hold the events back.
    response["X-Accel-Buffering"] = "no"
    return response


async def _frames(news: dict[str, Any], after: int) -> AsyncIterator[str]:
    # A request's thread keeps its connection until the response is closed: a few followers would have them all.
    await sync_to_async(close_old_connections)()
    yield ": connected\n\n"
    while True:
        for event in news["events"]:
            yield f"id: {event['n']}\nevent: model\ndata: {json.dumps(event)}\n\n"
        # A manager that was started anew counts from the beginning.
        after = news["last"]
        try:
            news = await manager.events(after, WAIT)
        except Problem:
            news = {"last": after, "events": []}
            await asyncio.sleep(AGAIN)
        if not news["events"]:
            yield ": nothing new\n\n"
