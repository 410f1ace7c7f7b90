"""The gateway as an ASGI application: ``app`` for any server, mounted with full paths or run alone."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from aiia_serving.gateway.auth import Authenticator, Caller
from aiia_serving.gateway.errors import ApiError, internal_error
from aiia_serving.gateway.exchange import Exchange
from aiia_serving.gateway.registry import Registry
from aiia_serving.gateway.reply import Reply, disconnected, read_body
from aiia_serving.gateway.requests import ChatRequest, CompletionRequest, GenerationRequest, TokenizeRequest, parse
from aiia_serving.gateway.settings import GatewaySettings
from aiia_serving.gateway.tokens import count_tokens
from aiia_serving.gateway.upstream import new_session
from aiia_serving.gateway.wire import Client
from aiia_serving.queue.fifo import FifoQueue
from aiia_serving.state import ModelState

log = logging.getLogger("aiia_serving.gateway")


class Gateway:
    """What all requests share. Made inside a running event loop."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.session = new_session()
        self.client = Client()
        self.queue = FifoQueue(settings.gateway_max_waiting)
        self.registry = Registry(self.session, settings.manager_url, settings.internal_token, self.queue)
        self.authenticator = Authenticator(
            self.session,
            settings.platform_url,
            settings.internal_token,
            settings.gateway_key_ttl_s,
            settings.gateway_unknown_key_ttl_s,
        )

    async def close(self) -> None:
        await self.registry.close()
        await self.session.close()
        self.client.close()


class _Lazy:
    """Makes the gateway at the first need: a server that mounts the application may not forward its lifespan."""

    def __init__(self, settings: GatewaySettings | None) -> None:
        self._settings = settings
        self._gateway: Gateway | None = None

    def get(self) -> Gateway:
        if self._gateway is None:
            self._gateway = Gateway(self._settings or GatewaySettings())
        return self._gateway

    async def close(self) -> None:
        if self._gateway is not None:
            await self._gateway.close()
            self._gateway = None


class _Generate:
    """ASGI endpoint for one kind of generation request."""

    def __init__(self, lazy: _Lazy, kind: type[GenerationRequest]) -> None:
        self._lazy = lazy
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = uuid.uuid4().hex
        reply = Reply(send, request_id)
        fields: dict[str, Any] = {"request_id": request_id, "path": scope["path"]}
        exchange: Exchange | None = None
        try:
            gateway = self._lazy.get()
            caller = await gateway.authenticator.caller(headers)
            fields["user"] = caller.user
            body = await read_body(scope, receive, gateway.settings.gateway_max_body)
            if body is None:
                return
            request = parse(self._kind, body)
            fields |= {"model": request.model, "stream": bool(request.stream), "class": caller.work_class}
            exchange = Exchange(
                client=gateway.client,
                registry=gateway.registry,
                queue=gateway.queue,
                settings=gateway.settings,
                caller=caller,
                request=request,
                reply=reply,
                request_id=request_id,
            )
            if not await _serve_while_connected(exchange, receive):
                fields["outcome"] = "caller left"
        except ApiError as error:
            fields |= {"error": error.error["code"], "status": error.status}
            await reply.error(error)
        except Exception:
            log.exception("request failed", extra={"fields": fields})
            await reply.error(internal_error(request_id))
        finally:
            fields.setdefault("status", reply.status)
            fields["duration_ms"] = round((time.monotonic() - started) * 1000, 1)
            if exchange is not None and exchange.first_byte_at is not None:
                fields["first_byte_ms"] = round((exchange.first_byte_at - started) * 1000, 1)
            log.info("request", extra={"fields": fields})


async def _serve_while_connected(exchange: Exchange, receive: Receive) -> bool:
    """Whether the caller stayed to the end; if it leaves, the work for it ends at once."""
    serving = asyncio.create_task(exchange.serve())
    leaving = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            return True
        return False
    finally:
        leaving.cancel()
        serving.cancel()
        await asyncio.gather(serving, leaving, return_exceptions=True)


class _App(FastAPI):
    """Takes streams past the framework's middleware, whose every layer would wrap every token that is sent."""

    streams: dict[str, ASGIApp]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (stream := self.streams.get(scope["path"])):
            await stream(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: GatewaySettings | None = None) -> FastAPI:
    """The application; without ``settings`` they are read from the environment at the first request."""
    lazy = _Lazy(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        lazy.get()
        yield
        await lazy.close()

    app = _App(title="aiia", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.streams = {
        "/v1/chat/completions": _Generate(lazy, ChatRequest),
        "/v1/completions": _Generate(lazy, CompletionRequest),
    }

    async def authenticated(request: Request) -> Caller:
        return await lazy.get().authenticator.caller(request.headers)

    @app.get("/v1/models")
    async def list_models(request: Request) -> Response:
        await authenticated(request)
        models = await lazy.get().registry.models()
        return JSONResponse({"object": "list", "data": [_model_object(model) for model in models]})

    # Ids of remote endpoints may hold slashes, such as "qwen/qwen3-8b".
    @app.get("/v1/models/{model_id:path}")
    async def get_model(request: Request, model_id: str) -> Response:
        await authenticated(request)
        return JSONResponse(_model_object(await lazy.get().registry.get(model_id)))

    @app.post("/v1/tokenize")
    async def tokenize(request: Request) -> Response:
        await authenticated(request)
        gateway = lazy.get()
        body = await read_body(request.scope, request.receive, gateway.settings.gateway_max_body)
        wanted = parse(TokenizeRequest, body or b"")
        model = await gateway.registry.get(wanted.model)
        return JSONResponse({"count": await count_tokens(gateway.session, model, wanted)})

    @app.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return Response(error.body(), error.status, error.headers, "application/json")

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        known = (
            "GET /v1/models, GET /v1/models/{id}, POST /v1/chat/completions, POST /v1/completions, POST /v1/tokenize"
        )
        message = f"Invalid URL ({request.method} {request.url.path}). Routes here: {known}."
        answer = ApiError(error.status_code, message, code="unknown_url")
        return Response(answer.body(), error.status_code, error.headers, "application/json")

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> Response:
        answer = internal_error(uuid.uuid4().hex)
        return Response(answer.body(), answer.status, media_type="application/json")

    return app


def _model_object(model: ModelState) -> dict[str, Any]:
    ours = {"title", "task", "state", "reason", "progress", "eta_s", "max_model_len", "exact_continuation"}
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "aiia",
        "aiia": model.model_dump(mode="json", include=ours),
    }


app = create_app()
