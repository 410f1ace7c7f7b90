"""A replica's part in the request that a gateway sent: the last span of its trace, and its id in the replica's logs."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from aiia_serving import tracing
from aiia_serving.logs import request_id


class Traced:
    """ASGI middleware around the work that a replica is asked for, which is called ``name`` in traces.

    What is inside says with ``tracing.ended`` how it ended.
    """

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        before = request_id.set(headers.get("x-request-id"))
        try:
            with tracing.span(self._name, tracing.SpanKind.SERVER, headers=headers):
                await self._app(scope, receive, send)
        finally:
            request_id.reset(before)
