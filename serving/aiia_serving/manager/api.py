"""The manager's HTTP interface; docs/developers/architecture.md has the shapes."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import yaml
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.manager.manager import Manager
from aiia_serving.manager.metrics import Scrape
from aiia_serving.manager.offers import offered, offers
from aiia_serving.manager.problems import Problem, problems
from aiia_serving.metrics import CONTENT_TYPE, may_read, page

_LONGEST_WAIT_S = 60.0
_LARGEST_DOCUMENT = 1024 * 1024
# Has a rule of its own, or none.
_OPEN = {"/healthz", "/metrics"}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Bounds(BaseModel):
    """The body of ``scale``; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int | None = Field(default=None, ge=0)
    max_replicas: int | None = Field(default=None, ge=1)


class Addition(BaseModel):
    """The body of a ready document's addition, which may be left out."""

    model_config = ConfigDict(extra="forbid")

    overrides: dict[str, Any] = {}


def application(manager: Manager, token: str | None) -> web.Application:
    """All routes, for the holder of ``token``."""
    app = web.Application(middlewares=[problems, _authorised(token)], client_max_size=_LARGEST_DOCUMENT)
    routes = _Routes(manager, token)
    app.add_routes(
        [
            web.get("/healthz", routes.healthz),
            web.get("/metrics", routes.metrics),
            web.get("/state", routes.state),
            web.get("/events", routes.events),
            web.post("/models/{id}/load", routes.load),
            web.post("/models/{id}/unload", routes.unload),
            web.post("/models/{id}/pull", routes.pull),
            web.post("/models/{id}/scale", routes.scale),
            web.put("/models/{id}", routes.put),
            web.delete("/models/{id}", routes.delete),
            web.get("/catalogue", routes.catalogue),
            web.post("/catalogue/{id}", routes.add),
        ]
    )
    return app


def _authorised(token: str | None) -> Any:
    @web.middleware
    async def authorised(request: web.Request, handler: _Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if request.path not in _OPEN and not (
            token and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
        ):
            raise Problem(401, "The internal token is wanted.")
        return await handler(request)

    return authorised


class _Routes:
    def __init__(self, manager: Manager, token: str | None) -> None:
        self._manager = manager
        self._token = token
        self._scrape = Scrape(manager.board)

    async def healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def metrics(self, request: web.Request) -> web.Response:
        if not may_read(request.remote, request.headers, self._token):
            raise Problem(404, "There is nothing here.")
        self._scrape()
        return web.Response(body=page(), headers={"Content-Type": CONTENT_TYPE})

    async def state(self, request: web.Request) -> web.Response:
        return _json(await self._manager.board.wait(request.query.get("after", ""), _wait(request)))

    async def events(self, request: web.Request) -> web.Response:
        after = request.query.get("after") or "0"
        if not after.isdigit():
            raise Problem(422, "after is the number of an event")
        return _json(await self._manager.board.wait_events(int(after), _wait(request)))

    async def load(self, request: web.Request) -> web.Response:
        self._manager.load(_name(request))
        return web.Response(status=202)

    async def unload(self, request: web.Request) -> web.Response:
        self._manager.unload(_name(request))
        return web.Response(status=202)

    async def pull(self, request: web.Request) -> web.Response:
        self._manager.pull(_name(request))
        return web.Response(status=202)

    async def scale(self, request: web.Request) -> web.Response:
        bounds = Bounds.model_validate(_parse(await request.text()))
        try:
            self._manager.scale(_name(request), bounds.min_replicas, bounds.max_replicas)
        except ValueError as error:
            raise Problem(422, str(error), [{"field": "min_replicas", "message": str(error)}]) from error
        return web.Response(status=202)

    async def put(self, request: web.Request) -> web.Response:
        name, text = _name(request), await request.text()
        content = _parse(text)
        document = ModelDocument.model_validate(content)
        if document.id != name:
            message = f"The address names the model {name}, the document {document.id}."
            raise Problem(422, message, [{"field": "metadata.name", "message": message}])
        if "json" in request.content_type:
            text = _yaml(content)
        new = self._manager.owned.put(document, text)
        self._manager.look()
        return web.Response(status=201 if new else 204)

    async def catalogue(self, _: web.Request) -> web.Response:
        # It asks the GPU's driver, the first time.
        answer = await asyncio.to_thread(offers, self._manager.settings.model_cache, self._manager.documents.keys())
        return web.json_response(answer)

    async def add(self, request: web.Request) -> web.Response:
        name, body = _name(request), _parse(await request.text())
        overrides = Addition.model_validate(body or {}).overrides
        if name in self._manager.documents:
            raise Problem(409, f"There is a model {name} already.")
        try:
            document = await asyncio.to_thread(offered, name, self._manager.settings.model_cache, overrides)
        except LookupError as error:
            raise Problem(404, error.args[0]) from error
        content = document.model_dump(mode="json", by_alias=True, exclude_unset=True)
        self._manager.owned.put(document, _yaml(content))
        self._manager.look()
        return web.Response(status=201)

    async def delete(self, request: web.Request) -> web.Response:
        name = _name(request)
        self._manager.remove(name)
        return web.Response(status=204)


def _name(request: web.Request) -> str:
    return request.match_info["id"]


def _wait(request: web.Request) -> float:
    try:
        return min(float(request.query.get("wait", "0")), _LONGEST_WAIT_S)
    except ValueError as error:
        raise Problem(422, "wait is a number of seconds") from error


def _parse(text: str) -> Any:
    """The body, which may be JSON, being YAML then too."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Problem(
            422, f"The body is neither JSON nor YAML: {error}", [{"field": "", "message": str(error)}]
        ) from error


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _json(body: BaseModel) -> web.Response:
    return web.Response(body=body.model_dump_json().encode(), content_type="application/json")
