"""The platform's client of the model manager: what the models are doing, and the verbs on them."""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from aiia_platform.config import config
from aiia_platform.gateway import GatewayError, ModelInfo, fetch_queue, model_info
from aiia_platform.problems import Problem

log = logging.getLogger(__name__)

#: Seconds: how long the manager may take to answer, beyond what it was asked to wait, and how long a queue may.
PATIENCE = 10.0
QUEUE_PATIENCE = 2.0


class ManagerAway(Problem):
    """The manager does not answer; the log has the reason."""

    def __init__(self, why: str) -> None:
        log.warning("no answer from the model manager: %s", why)
        super().__init__(
            503,
            "The model manager does not answer",
            "Models that are loaded go on answering. On the server, aiia doctor says what is wrong.",
        )


class ManagerRefused(Problem):
    """The manager answered with a problem of its own."""


@dataclass(frozen=True, kw_only=True)
class ManagedModel(ModelInfo):
    """A model as the manager knows it, and its queue as `GET /v1/queue` describes it; None while that is not known.

    `base` names the model whose replicas an adapter or a further image model shares. `held` tells for each replica of
    an image model where the weights are, in the shape of `Held` in `aiia_serving.state`.
    """

    engine: str
    capabilities: tuple[str, ...]
    base: str | None
    replicas: int
    min_replicas: int
    max_replicas: int
    max_in_flight: int | None
    queue: dict[str, Any] | None
    held: tuple[dict[str, Any], ...] = ()


async def models() -> list[ManagedModel]:
    """All models with their queues. Raises `ManagerAway`."""
    report, queues = await asyncio.gather(call("GET", "/state"), _queues())
    return [_managed(state, queues) for state in report["models"]]


async def model(model_id: str) -> ManagedModel:
    """One model. Raises `ManagerAway`, or a `Problem` 404 that lists what there is."""
    found = await models()
    for candidate in found:
        if candidate.id == model_id:
            return candidate
    there = ", ".join(candidate.id for candidate in found) or "none"
    raise Problem(404, "Not found", f"There is no model {model_id}. There are: {there}.")


async def catalogue() -> dict[str, Any]:
    """The machine, and the ready documents with whether each fits it: the manager's `GET /catalogue`."""
    answer: dict[str, Any] = await call("GET", "/catalogue", wait=20)
    return answer


async def events(after: int, wait: float) -> dict[str, Any]:
    """`{"last": n, "events": […]}`: what happened after number `after`, as soon as there is any, or after `wait` s."""
    answer: dict[str, Any] = await call("GET", "/events", params={"after": str(after), "wait": str(wait)}, wait=wait)
    return answer


async def change(method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> Any:
    """Pass a change on to the manager, which checks it. Its answer; raises `ManagerAway` or `ManagerRefused`."""
    return await call(method, path, body=body, content_type=content_type)


async def scale(model_id: str, min_replicas: int, max_replicas: int) -> None:
    """Set the bounds of a model. Raises like `change`; 422 has errors of both fields."""
    bounds = {"min_replicas": min_replicas, "max_replicas": max_replicas}
    await change("POST", model_path(model_id, "scale"), json.dumps(bounds).encode())


def model_path(model_id: str, verb: str = "") -> str:
    """The manager's address of a model. Names of remote models may hold slashes."""
    return f"/models/{quote(model_id, safe='')}" + (f"/{verb}" if verb else "")


def catalogue_path(name: str) -> str:
    """The manager's address of a ready document."""
    return f"/catalogue/{quote(name, safe='')}"


async def call(
    method: str,
    path: str,
    *,
    params: Mapping[str, str] | None = None,
    body: bytes = b"",
    content_type: str = "application/json",
    wait: float = 0,
) -> Any:
    """The manager's answer as JSON, None where it has no content. Raises `ManagerAway` and `ManagerRefused`."""
    headers = {"Authorization": f"Bearer {config().internal_token}"}
    if body:
        headers["Content-Type"] = content_type
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=wait + PATIENCE)) as session,
            session.request(
                # The path is quoted already; a second time would change it.
                method,
                URL(config().manager_url.rstrip("/") + path, encoded=True),
                params=params,
                data=body or None,
                headers=headers,
            ) as response,
        ):
            content = await response.json(content_type=None) if response.status != 204 else None
            if response.status >= 400:
                raise _refusal(response.status, content)
            return content
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ManagerAway(str(error) or type(error).__name__) from error
    except ValueError as error:
        raise ManagerAway("what answers at its address is something else") from error


def _refusal(status: int, content: Any) -> Problem:
    more = content if isinstance(content, dict) else {}
    if status in (401, 403):
        return ManagerAway("it does not know this process's token")
    known = {name: more.get(name) for name in ("errors",) if name in more}
    return ManagerRefused(
        status,
        str(more.get("title") or "The model manager refused"),
        str(more.get("detail") or f"It answered {status}."),
        **known,
    )


async def _queues() -> dict[str, Any]:
    try:
        queues: dict[str, Any] = (await fetch_queue(QUEUE_PATIENCE))["models"]
    except (GatewayError, KeyError):
        return {}
    return queues


def _managed(state: dict[str, Any], queues: dict[str, Any]) -> ManagedModel:
    base = state.get("base")
    return ManagedModel(
        **vars(model_info({"id": state["id"], "aiia": state})),
        engine=state.get("engine") or "",
        capabilities=tuple(state.get("capabilities") or ()),
        base=base,
        replicas=state.get("replicas") or 0,
        min_replicas=state.get("min_replicas") or 0,
        max_replicas=state.get("max_replicas", 1),
        max_in_flight=state.get("max_in_flight"),
        queue=queues.get(base or state["id"]),
        held=tuple(state.get("held") or ()),
    )
