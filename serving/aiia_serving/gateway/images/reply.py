"""Answers with images: one body, or OpenAI's events."""

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING, Any

from starlette.types import Send

from aiia_serving.gateway.images.request import ImageRequest
from aiia_serving.gateway.images.store import ImageStore
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.usage import Usage

if TYPE_CHECKING:
    from aiia_serving.gateway.images.exchange import Picture


class ImageReply(Reply):
    """Speaks OpenAI's images. ``request`` is known once the body is read."""

    def __init__(self, send: Send, request_id: str) -> None:
        super().__init__(send, request_id)
        self.request = ImageRequest(model="")
        self._created = int(time.time())
        # The last image waits for the usage, which OpenAI tells with it.
        self._last: dict[str, Any] | None = None

    async def partial(self, index: int, image: str) -> None:
        """One of the partial images."""
        await self.start_stream()
        event = {"b64_json": image, **self._common(None), "partial_image_index": index}
        await self._event("partial_image", event)

    async def picture(self, index: int, picture: "Picture") -> None:
        """One whole image; OpenAI's streams know one per request, so ours say which it is."""
        await self.start_stream()
        await self._send_last(None)
        self._last = {
            "b64_json": picture.image,
            **self._common(picture.size),
            "index": index,
            "aiia": {"seed": picture.seed, "recipe": picture.recipe},
        }

    async def progress(self, event: dict[str, Any], *, events: bool) -> None:
        """What the replica does: as it says it for those who want events, else as a comment."""
        await self.start_stream()
        kind = str(event.get("type"))
        if not events:
            await self.write(b": %b\n\n" % kind.encode("ascii", "replace"))
            return
        data = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        await self.write(b"event: aiia.%b\ndata: %b\n\n" % (kind.encode("ascii", "replace"), data))

    async def end_pictures(self, usage: Usage) -> None:
        """The last image and the end of the stream."""
        await self._send_last(usage)
        await self.end_stream()

    async def pictures(self, request: ImageRequest, pictures: list["Picture"], usage: Usage, store: ImageStore) -> None:
        """All images as one body."""
        data: list[dict[str, Any]] = []
        for picture in pictures:
            if request.response_format == "url":
                image = await asyncio.to_thread(base64.b64decode, picture.image)
                path = await store.keep(image, request.output_format or "png")
                item: dict[str, Any] = {"url": (self.origin or "") + path}
            else:
                item = {"b64_json": picture.image}
            data.append({**item, "aiia": {"seed": picture.seed, "recipe": picture.recipe}})
        common = self._common(pictures[0].size)
        common["created"] = common.pop("created_at")
        await self.json({**common, "data": data, "usage": _usage(usage)})

    async def _send_last(self, usage: Usage | None) -> None:
        if self._last is not None:
            await self._event("completed", {**self._last, "usage": _usage(usage)})
            self._last = None

    async def _event(self, what: str, event: dict[str, Any]) -> None:
        kind = f"{self.request.event}.{what}"
        data = json.dumps({"type": kind, **event}, ensure_ascii=False, separators=(",", ":")).encode()
        await self.write(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def _common(self, size: tuple[int, int] | None) -> dict[str, Any]:
        return {
            "created_at": self._created,
            "size": "{}x{}".format(*size) if size else self.request.size or "auto",
            "quality": self.request.quality or "auto",
            "background": "opaque",
            "output_format": self.request.output_format or "png",
        }


def _usage(usage: Usage | None) -> dict[str, Any]:
    """OpenAI counts tokens, of which images here have none; ours is the time of the device and the steps."""
    tokens = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    ours = {} if usage is None else {"gpu_ms": usage.gpu_ms, "steps": usage.steps}
    return {**tokens, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}, **ours}
