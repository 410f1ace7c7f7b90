"""The protocols in which callers ask for work. A new one is a module here and a line in the table of ``app.py``."""

import uuid
from typing import Protocol, TypeVar

from starlette.types import Send

from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.services import Gateway
from aiia_serving.gateway.usage import Kind, Usage

R = TypeVar("R", bound=Reply)


class Served(Protocol):
    """One request, read: an ``Exchange``, or less."""

    usage: Usage

    async def serve(self) -> None:
        """Answers the caller completely. Raises ``ApiError``, also after a stream has begun."""
        ...


class WorkProtocol(Protocol[R]):
    """One route for a model's work: how its body becomes an exchange, and in which words its caller is answered."""

    def reply(self, send: Send, request_id: str) -> R:
        """What answers the caller, also with errors that come before the body is read."""
        ...

    def exchange(self, gateway: Gateway, caller: Caller, reply: R, body: bytes, deadline_s: float | None) -> Served:
        """The work that ``body`` asks for. Raises ``ApiError`` 400 that names the field."""
        ...


def new_usage(caller: Caller, model: str, kind: Kind) -> Usage:
    """An empty account of one request; its id is the record's, since a caller may use a request id again."""
    return Usage(uuid.uuid4().hex, caller.user, caller.key_id, model, caller.work_class, kind)
