"""The response to one caller, as raw ASGI messages: every layer above them costs time per token."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from aiia_serving.gateway.errors import ApiError
from aiia_serving.gateway.turn import Status

_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    # nginx would hold tokens back to fill its buffers.
    (b"x-accel-buffering", b"no"),
]


class CallerLeftError(Exception):
    """The caller has stopped reading, so that there is nobody to answer."""


class Reply:
    """Either one JSON body or a stream of events; an error takes the form that is still possible.

    This one speaks OpenAI's chat and completions, which is what models speak. Other protocols are subclasses that
    override ``translate``, ``json``, ``error`` and ``say``.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self.send = send
        self.request_id = request_id
        # The request's headers, in lower case, and the scheme and host it was sent to.
        self.asked_with: Mapping[str, str] = {}
        self.origin: str | None = None
        self.streaming = False
        self.status = 0

    @property
    def _id_headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-request-id", self.request_id.encode("latin-1", "replace"))]

    async def start_stream(self) -> None:
        """Sends the headers of an event stream, unless they are sent."""
        if (message := self.start_message()) is not None:
            await self.send(message)

    def start_message(self) -> Message | None:
        """The message that begins an event stream, to be sent by who asks for it; None when that has been done."""
        if self.streaming:
            return None
        self.streaming = True
        self.status = 200
        return {"type": "http.response.start", "status": 200, "headers": [*_EVENT_STREAM, *self._id_headers]}

    def translate(self, frames: bytes) -> bytes:
        """A model's whole frames as the caller wants them; may be empty."""
        return frames

    async def say(self, status: Status, *, events: bool) -> None:
        """Says what a stream waits for: as an event for those who want events, else as a comment."""
        await self.start_stream()
        await self.write(status.event() if events else status.comment())

    async def write(self, frames: bytes) -> None:
        await self.send({"type": "http.response.body", "body": frames, "more_body": True})

    async def end_stream(self, frames: bytes = b"") -> None:
        await self.send({"type": "http.response.body", "body": frames})

    async def json(self, value: Any) -> None:
        await self._whole(200, json.dumps(value, ensure_ascii=False).encode(), {})

    async def error(self, error: ApiError) -> None:
        if self.streaming:
            await self.end_stream(error.frame())
        else:
            await self._whole(error.status, error.body(), error.headers)

    async def _whole(self, status: int, body: bytes, extra: dict[str, str]) -> None:
        self.status = status
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *self._id_headers,
            *((name.lower().encode(), value.encode()) for name, value in extra.items()),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The request's body, or None when the caller went away. Raises ``ApiError`` 413 over ``limit`` bytes."""
    too_large = ApiError(413, f"The request body is larger than {limit} bytes.", code="request_too_large")
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise too_large
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def disconnected(receive: Receive) -> None:
    """Returns when the caller has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
