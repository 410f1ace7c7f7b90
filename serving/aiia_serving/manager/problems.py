"""Errors of the manager's HTTP interface, as problem details (RFC 9457)."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.manager.manager import NotPossible, UnknownModel
from aiia_serving.manager.owned import NotOwned


class Problem(Exception):
    """An answer with ``status``; ``errors`` name the fields: ``{"field": "spec.task", "message": "…"}``."""

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors

    def response(self) -> web.Response:
        title = {401: "Not authorised", 404: "Not found", 409: "Not possible", 422: "Not valid"}.get(self.status)
        body: dict[str, Any] = {"title": title or "Error", "status": self.status, "detail": self.detail}
        if self.errors is not None:
            body["errors"] = self.errors
        return web.Response(body=json.dumps(body).encode(), status=self.status, content_type="application/problem+json")


def invalid(error: ValidationError) -> Problem:
    """The problem of a document or body that pydantic refuses."""
    errors = [
        {"field": ".".join(map(str, item["loc"])), "message": item["msg"].removeprefix("Value error, ")}
        for item in error.errors(include_url=False, include_input=False)
    ]
    name = "The document" if error.title == ModelDocument.__name__ else "The request"
    return Problem(422, f"{name} has a mistake.", errors)


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turns what the verbs raise into answers."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except UnknownModel as error:
        return Problem(404, error.args[0]).response()
    except (NotPossible, NotOwned) as error:
        return Problem(409, str(error)).response()
    except ValidationError as error:
        return invalid(error).response()
    except web.HTTPException as error:
        return Problem(error.status, error.reason).response()
