"""Server-sent events."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.http import HttpRequest, StreamingHttpResponse


def frame(event: str, data: object, place: object = None) -> str:
    """One event. `place` is its id: what a reader that comes back has."""
    head = f"id: {place}\n" if place is not None else ""
    return f"{head}event: {event}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def resumed(request: HttpRequest) -> str:
    """The id after which a reader goes on; empty at the beginning."""
    return request.headers.get("Last-Event-ID") or request.GET.get("after", "")


def response(frames: AsyncGenerator[str]) -> StreamingHttpResponse:
    """The answer that sends them as they come."""

    async def body() -> AsyncGenerator[str]:
        # A request's thread keeps its connection until the response is closed: a few followers would have them all.
        # Given back here rather than above, since middleware may use it after the view.
        await sync_to_async(close_old_connections)()
        async with aclosing(frames):
            async for part in frames:
                yield part

    found = StreamingHttpResponse(body(), content_type="text/event-stream; charset=utf-8")
    found["Cache-Control"] = "no-store"
    # nginx and its kin would hold the events back.
    found["X-Accel-Buffering"] = "no"
    return found
