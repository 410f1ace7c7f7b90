"""A request for images: sent to a replica as a job, sent again from the same seed when the replica dies."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.errors import ApiError, stalled, upstream_failed
from aiia_serving.gateway.exchange import Exchange
from aiia_serving.gateway.images.encode import encoded, size_of
from aiia_serving.gateway.images.replica import events
from aiia_serving.gateway.images.reply import ImageReply
from aiia_serving.gateway.images.request import ImageRequest, refused
from aiia_serving.gateway.protocols import new_usage
from aiia_serving.gateway.services import Gateway
from aiia_serving.gateway.turn import Status
from aiia_serving.gateway.upstream import UpstreamLostError, open_stream
from aiia_serving.images.problem import ImageProblem
from aiia_serving.state import ModelState

# How often an image may break off in the middle: one that kills every replica must come to an end.
_MOST_BREAKS = 3


@dataclass(frozen=True)
class Picture:
    """One image as it is told: ``image`` is base64 in the format that was asked for."""

    image: str
    #: Width and height in pixels.
    size: tuple[int, int]
    seed: int
    recipe: dict[str, Any]


class Images(Exchange):
    """Serves one request for images, whichever of the routes it came by."""

    needs = "images"

    def __init__(
        self, gateway: Gateway, caller: Caller, reply: ImageReply, request: ImageRequest, deadline_s: float | None
    ) -> None:
        usage = new_usage(caller, request.model, "images")
        self._job = request.job(reply.request_id[:200], caller.work_class)
        cost = gateway.paces.estimate(request.model, self._job)
        super().__init__(gateway, caller, reply, usage, estimated_cost=cost, deadline_s=deadline_s)
        self._to = reply
        self._request = request
        self._done: dict[int, Picture] = {}
        self._running_since: float | None = None
        self._spent_ms = 0.0
        self._partials = 0
        # Of one image, as the replica tells.
        self._steps = 0
        self._began = False
        self._breaks = 0

    async def _attempt(self, model: ModelState) -> None:
        self._began = False
        named = model.upstream.model if model.upstream else model.id
        path = f"/images/jobs?{urlencode({'model': named})}"
        opening = open_stream(self._gateway.client, model, path, self._job.model_dump(mode="json"), self._headers)
        stall_s = self._gateway.settings.gateway_stall_s
        try:
            async with asyncio.timeout(stall_s):
                response = await opening
        except TimeoutError:
            raise stalled() from None
        try:
            async for event in events(response, stall_s):
                await self._take(event)
        finally:
            # Closes the connection unless the body was read to its end: the replica sees that and stops.
            response.release()
            self._stop_clock()
        if len(self._done) < self._job.n:
            raise upstream_failed("The model made fewer images than it was asked for.")
        await self._answer()

    async def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        try:
            match kind:
                case "image":
                    await self._take_image(event)
                case "usage":
                    self._take_usage(event)
                case "error":
                    self._take_error(event)
                case _:
                    await self._pass_on(event)
        except (KeyError, TypeError, ValueError) as error:
            raise upstream_failed(f"The model's event '{kind}' is not of the expected shape.") from error

    async def _take_image(self, event: dict[str, Any]) -> None:
        index = int(event["index"])
        if index in self._done or not 0 <= index < self._job.n:
            # A second try makes again what the first one had delivered.
            return
        size = size_of(event["image"])
        image = await self._in_format(event["image"])
        picture = self._done[index] = Picture(image, size, int(event["seed"]), dict(event["recipe"]))
        if self.usage.first_token_at is None:
            self.usage.first_token_at = time.monotonic()
        if self._request.stream:
            await self._to.picture(index, picture)

    def _take_usage(self, event: dict[str, Any]) -> None:
        job = self._job
        gpu_ms = float(event["gpu_ms"])
        self.usage.steps += int(event["steps"])
        # The replica knows better than the clock here, which also ran while others had the device.
        self._running_since = None
        self._spent_ms += gpu_ms
        if (first := self._done.get(0)) is not None and gpu_ms > 0:
            self._gateway.paces.learn(self.usage.model, job, gpu_ms, first.size, int(event["steps"]) // job.n)

    def _take_error(self, event: dict[str, Any]) -> None:
        if event.get("retry"):
            raise UpstreamLostError(str(event["message"]))
        status = int(event["status"])
        problem = ImageProblem(
            str(event["message"]),
            code=str(event["code"]),
            param=event.get("param"),
            status=status if 400 <= status < 600 else 500,
            advice=event.get("advice"),
        )
        error = refused(problem)
        if error.status >= 500:
            error.error["type"] = "server_error"
        raise error

    async def _pass_on(self, event: dict[str, Any]) -> None:
        if event.get("type") == "step":
            self._steps = int(event["steps"]) // self._job.n
            if self._running_since is None:
                self._running_since = time.monotonic()
                self._began = True
        if event.get("type") in ("preempted", "waiting"):
            self._stop_clock()
        if not self._request.stream:
            return
        if event.get("type") == "preview" and self._wants_partial(event):
            image = await self._in_format(event["image"])
            await self._to.partial(self._partials, image)
            self._partials += 1
        await self._to.progress(event, events=self._caller.events)

    def _wants_partial(self, event: dict[str, Any]) -> bool:
        """Whether a preview is one of the partial images: they are spread evenly over the first image's steps."""
        wanted = self._request.partial_images or 0
        if self._partials >= wanted or int(event["index"]) != 0:
            return False
        return int(event["step"]) >= (self._partials + 1) * self._steps // (wanted + 1)

    async def _in_format(self, image: str) -> str:
        kind = self._request.output_format or "png"
        return await asyncio.to_thread(encoded, image, kind, self._request.output_compression)

    async def _answer(self) -> None:
        self._settle()
        pictures = [self._done[index] for index in sorted(self._done)]
        if self._request.stream:
            await self._to.end_pictures(self.usage)
        else:
            await self._to.pictures(self._request, pictures, self.usage, self._gateway.images)

    def _starts_over(self) -> bool:
        if self._began:
            self._breaks += 1
        return self._began and self._breaks <= _MOST_BREAKS

    def _stop_clock(self) -> None:
        if self._running_since is not None:
            self._spent_ms += (time.monotonic() - self._running_since) * 1000
            self._running_since = None

    def _cost_so_far(self) -> float:
        running = 0.0 if self._running_since is None else (time.monotonic() - self._running_since) * 1000
        return self._spent_ms + running

    def _settle(self) -> None:
        self._stop_clock()
        self.usage.gpu_ms = round(self._spent_ms)

    async def _report(self, status: Status) -> None:
        if self._request.stream:
            await self._to.say(status, events=self._caller.events)

    def _lost_for_good(self, model: ModelState, lost: UpstreamLostError) -> ApiError:
        if self._running_since is None and not self._spent_ms:
            return super()._lost_for_good(model, lost)
        return upstream_failed(f"The model '{model.id}' could not finish the image: {lost}.", code="image_failed")
