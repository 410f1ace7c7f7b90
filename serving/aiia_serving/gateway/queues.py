"""What waits where, in words for a program (``GET /v1/queue``)."""

from dataclasses import asdict
from typing import Any

from aiia_serving.gateway.auth import Caller
from aiia_serving.queue import Place, Queue


async def queue_report(queue: Queue, caller: Caller) -> dict[str, Any]:
    """The load of every model, and the requests of the caller; another role sees those of everybody."""
    loads = await queue.load()
    places = await queue.places(None if caller.internal else caller.user)
    return {
        "models": {name: asdict(load) for name, load in loads.items()},
        "requests": [_request(place, with_user=caller.internal) for place in places],
    }


def _request(place: Place, *, with_user: bool) -> dict[str, Any]:
    request: dict[str, Any] = {
        "id": place.id,
        "model": place.model,
        "class": place.work_class,
        "position": place.position,
        "eta_s": None if place.eta_s is None else round(place.eta_s, 1),
        "waited_s": round(place.waited_s, 1),
    }
    return {**request, "user": place.user} if with_user else request
