"""The gateway as an ASGI application: ``app`` for any server, mounted with full paths or run alone."""

import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from aiia_serving import tracing
from aiia_serving.gateway import metrics
from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.errors import ApiError, internal_error
from aiia_serving.gateway.exchange import until_disconnected
from aiia_serving.gateway.images.request import EditsRequest, GenerationsRequest, VariationsRequest
from aiia_serving.gateway.images.store import PATH as IMAGE_FILES
from aiia_serving.gateway.protocols import R, Served, WorkProtocol
from aiia_serving.gateway.protocols.embeddings import Embeddings
from aiia_serving.gateway.protocols.images import OpenAIImages
from aiia_serving.gateway.protocols.messages import CountTokens, Messages
from aiia_serving.gateway.protocols.openai import OpenAIText
from aiia_serving.gateway.protocols.rerank import Rerank
from aiia_serving.gateway.protocols.responses import Responses
from aiia_serving.gateway.queues import queue_report
from aiia_serving.gateway.reply import CallerLeftError, disconnected, read_body
from aiia_serving.gateway.requests import ChatRequest, CompletionRequest, TokenizeRequest, parse
from aiia_serving.gateway.scrape import pages
from aiia_serving.gateway.services import Gateway
from aiia_serving.gateway.settings import GatewaySettings
from aiia_serving.gateway.tokens import count_tokens
from aiia_serving.gateway.usage import Outcome
from aiia_serving.logs import request_id as current_request
from aiia_serving.state import ModelState

log = logging.getLogger("aiia_serving.gateway")

_FILE_HEADERS = {
    "Cache-Control": "private, max-age=300",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}


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


class _Work(Generic[R]):
    """ASGI endpoint for one kind of work."""

    def __init__(self, lazy: _Lazy, protocol: WorkProtocol[R]) -> None:
        self._lazy = lazy
        self._protocol = protocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with tracing.span(f"POST {scope['path']}", tracing.SpanKind.SERVER, headers=headers) as span:
            await self._serve(scope, receive, send, headers, span)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], span: tracing.Span
    ) -> None:
        started = time.monotonic()
        request_id = uuid.uuid4().hex
        reply = self._protocol.reply(send, request_id)
        fields: dict[str, Any] = {"request_id": request_id, "path": scope["path"]}
        exchange: Served | None = None
        outcome: Outcome = "cancelled"
        try:
            gateway = self._lazy.get()
            caller = await gateway.authenticator.caller(headers)
            if caller.request_id:
                reply.request_id = fields["request_id"] = caller.request_id
            reply.asked_with = headers
            reply.origin = gateway.settings.gateway_public_url.rstrip("/") or _origin(scope, headers)
            current_request.set(reply.request_id)
            fields |= {"user": caller.user, "class": caller.work_class}
            body = await read_body(scope, receive, gateway.settings.gateway_max_body)
            if body is None:
                return
            exchange = self._protocol.exchange(gateway, caller, reply, body, _deadline_s(headers))
            fields["model"] = exchange.usage.model
            if await until_disconnected(exchange.serve(), disconnected(receive)):
                outcome = "complete"
            else:
                fields["outcome"] = "caller left"
        except CallerLeftError:
            # Ending without an end of the answer closes the connection.
            fields["outcome"] = "caller left"
        except ApiError as error:
            outcome = "failed"
            fields |= {"error": error.error["code"], "status": error.status}
            await reply.error(error)
        except Exception:
            outcome = "failed"
            fields["error"] = "internal_error"
            log.exception("request failed", extra={"fields": fields})
            await reply.error(internal_error(reply.request_id))
        finally:
            fields.setdefault("status", reply.status)
            fields["duration_ms"] = round((time.monotonic() - started) * 1000, 1)
            if exchange is not None and exchange.usage.first_token_s is not None:
                fields["first_token_ms"] = round(exchange.usage.first_token_s * 1000, 1)
            usage = exchange.usage if exchange is not None else None
            metrics.answered(usage, outcome, fields["status"], fields.get("error"))
            tracing.describe(span, outcome, fields)
            log.info("request", extra={"fields": fields})


def _origin(scope: Scope, headers: dict[str, str]) -> str | None:
    """The scheme and host that the caller used, as far as they are known."""
    host = headers.get("host")
    return f"{scope.get('scheme', 'http')}://{host}" if host else None


def _deadline_s(headers: dict[str, str]) -> float | None:
    """How long the caller is willing to wait for a turn, from ``X-Aiia-Deadline`` in seconds."""
    given = headers.get("x-aiia-deadline")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise ApiError(400, "X-Aiia-Deadline is a number of seconds, at most 86400.", param="X-Aiia-Deadline")
    return seconds


class _App(FastAPI):
    """Takes work past the framework's middleware, whose every layer would wrap every token that is sent."""

    work: dict[str, ASGIApp]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (endpoint := self.work.get(scope["path"])):
            await endpoint(scope, receive, send)
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
    app.work = {
        "/v1/chat/completions": _Work(lazy, OpenAIText("chat", ChatRequest)),
        "/v1/completions": _Work(lazy, OpenAIText("completions", CompletionRequest)),
        "/v1/embeddings": _Work(lazy, Embeddings()),
        "/v1/rerank": _Work(lazy, Rerank()),
        "/v1/images/generations": _Work(lazy, OpenAIImages(GenerationsRequest)),
        "/v1/images/edits": _Work(lazy, OpenAIImages(EditsRequest)),
        "/v1/images/variations": _Work(lazy, OpenAIImages(VariationsRequest)),
        "/v1/responses": _Work(lazy, Responses()),
        "/v1/messages": _Work(lazy, Messages()),
        "/v1/messages/count_tokens": _Work(lazy, CountTokens()),
    }
    routes = [
        *("GET /v1/models", "GET /v1/models/{id}", "GET /v1/queue", "POST /v1/tokenize"),
        *(f"POST {path}" for path in app.work),
    ]

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

    @app.get("/v1/queue")
    async def queue(request: Request) -> Response:
        caller = await authenticated(request)
        return JSONResponse(await queue_report(lazy.get().queue, caller))

    @app.post("/v1/tokenize")
    async def tokenize(request: Request) -> Response:
        await authenticated(request)
        gateway = lazy.get()
        body = await read_body(request.scope, request.receive, gateway.settings.gateway_max_body)
        wanted = parse(TokenizeRequest, body or b"")
        model = await gateway.registry.get(wanted.model)
        return JSONResponse({"count": await count_tokens(gateway.session, model, wanted)})

    # The link itself is the permission, so that it can stand in a page.
    @app.get(IMAGE_FILES + "{name}")
    async def image_file(name: str, expires: str = "", signature: str = "") -> Response:
        image, kind = await lazy.get().images.open(name, expires, signature)
        return Response(image, media_type=kind, headers=_FILE_HEADERS)

    app.include_router(pages(lazy.get))

    @app.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return Response(error.body(), error.status, error.headers, "application/json")

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = f"Invalid URL ({request.method} {request.url.path}). Routes here: {', '.join(routes)}."
        answer = ApiError(error.status_code, message, code="unknown_url")
        return Response(answer.body(), error.status_code, error.headers, "application/json")

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> Response:
        answer = internal_error(uuid.uuid4().hex)
        return Response(answer.body(), answer.status, media_type="application/json")

    return app


def _model_object(model: ModelState) -> dict[str, Any]:
    ours = {
        "title",
        "task",
        "state",
        "reason",
        "progress",
        "eta_s",
        "max_model_len",
        "max_new_tokens",
        "exact_continuation",
        "capabilities",
        "base",
        "starts_on_demand",
        "replicas",
        "min_replicas",
        "max_replicas",
    }
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "aiia",
        "max_model_len": model.max_model_len,
        "aiia": model.model_dump(mode="json", include=ours),
    }


app = create_app()
