"""The stream of a replica that works on a job: its events, one by one."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from aiia_serving.gateway.errors import stalled
from aiia_serving.gateway.sse import FrameBuffer, FrameTooLongError, data_of
from aiia_serving.gateway.upstream import UpstreamLostError
from aiia_serving.gateway.wire import Response, WireError

# An image of 8192 x 8192 pixels of noise, as base64 of a PNG, and room beside it.
_MAX_FRAME = 300_000_000


async def events(response: Response, stall_s: float) -> AsyncIterator[dict[str, Any]]:
    """The events up to the end mark. Raises ``UpstreamLostError`` when the stream ends without it, ``ApiError`` 504
    after a silence of ``stall_s``."""
    buffer, pieces = FrameBuffer(_MAX_FRAME), response.pieces()
    while True:
        try:
            async with asyncio.timeout(stall_s):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise stalled() from None
        except WireError as error:
            raise UpstreamLostError(f"{error} in the model's stream") from error
        if piece is None:
            raise UpstreamLostError("the stream ended without its end mark")
        try:
            frames = buffer.feed(piece)
        except FrameTooLongError as error:
            raise UpstreamLostError("an event without an end in the model's stream") from error
        for data in data_of(frames):
            if data == b"[DONE]":
                return
            try:
                event = json.loads(data)
            except ValueError as error:
                raise UpstreamLostError("an event in the model's stream is not JSON") from error
            if isinstance(event, dict):
                yield event
