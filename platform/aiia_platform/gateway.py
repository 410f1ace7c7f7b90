"""The platform's client of the gateway: the only way from here to a model."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
from asgiref.sync import async_to_sync

from aiia_platform.config import config
from aiia_platform.observability import tracing

#: Seconds: how long a list of models is good for, and how long a page waits for a new one.
FRESH = 1.0
PAGE_WAIT = 0.5


@dataclass(frozen=True)
class ModelInfo:
    """A model as the gateway knows it. `progress` is 0 to 1, `eta_s` seconds.

    `starts_on_demand`: a cold one starts when a request waits for it.
    """

    id: str
    title: str
    task: str
    state: str
    reason: str
    progress: float | None
    eta_s: float | None
    max_model_len: int | None
    exact_continuation: bool
    #: Tokens of one answer at most, whatever is asked.
    max_new_tokens: int | None = None
    starts_on_demand: bool = True
    #: Whether it reads pictures.
    sees: bool = False
    #: Whether it can be held to a JSON schema.
    structured: bool = False

    @property
    def is_ready(self) -> bool:
        return self.state == "ready"


class GatewayError(Exception):
    """The gateway refused or failed a request. `status` is its HTTP status, 0 when it could not be reached."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def is_final(self) -> bool:
        """Whether the same request would fail again."""
        return 400 <= self.status < 500 and self.status not in (408, 425, 429)


class StreamBroken(Exception):
    """A stream ended without its `[DONE]`."""


@dataclass(frozen=True)
class Completion:
    """A whole answer, and its tokens by the model's own count; 0 where it does not say."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


def _headers(user: object | None = None, work: str = "interactive") -> dict[str, str]:
    headers = {"Authorization": f"Bearer {config().internal_token}", **tracing.headers()}
    if user is not None:
        headers |= {"X-Aiia-User": str(user), "X-Aiia-Class": work, "X-Aiia-Events": "1"}
    return headers


_models: tuple[float, list[ModelInfo]] = (float("-inf"), [])
_heard = False


async def fetch_models(wait: float) -> list[ModelInfo]:
    """The models as the gateway lists them now. Raises `GatewayError` when it does not answer within `wait` seconds."""
    return [model_info(entry) for entry in (await _get("models", wait))["data"]]


async def fetch_queue(wait: float) -> dict[str, Any]:
    """Every queue and request, as `GET /v1/queue` describes them. Raises like `fetch_models`."""
    return await _get("queue", wait)


async def _get(path: str, wait: float) -> dict[str, Any]:
    try:
        timeout = aiohttp.ClientTimeout(total=wait)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=_headers()) as session,
            session.get(f"{config().gateway_url}/{path}") as response,
        ):
            if response.status != 200:
                raise _error(response, await response.read())
            answer: dict[str, Any] = await response.json()
            return answer
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise GatewayError(0, f"The gateway does not answer: {error or 'timed out'}") from error


async def list_models() -> list[ModelInfo]:
    """The models for a page: at most a second old, or the last ones known when the gateway does not answer."""
    global _models, _heard
    if time.monotonic() - _models[0] > FRESH:
        try:
            _models = (time.monotonic(), await fetch_models(PAGE_WAIT))
            _heard = True
        except GatewayError:
            _models = (time.monotonic(), _models[1])
    return _models[1]


def list_models_sync() -> list[ModelInfo]:
    """`list_models` for a view that is not asynchronous."""
    return async_to_sync(list_models)()


def was_heard() -> bool:
    """Whether the gateway has ever listed its models to this process, so that an empty list means that it has none."""
    return _heard


def model_info(entry: dict[str, Any]) -> ModelInfo:
    """A model from its entry in `/v1/models`."""
    more = entry.get("aiia") or {}
    return ModelInfo(
        id=entry["id"],
        title=more.get("title") or entry["id"],
        task=more.get("task") or "chat",
        state=more.get("state") or "ready",
        reason=more.get("reason") or "",
        progress=more.get("progress"),
        eta_s=more.get("eta_s"),
        max_model_len=more.get("max_model_len"),
        exact_continuation=bool(more.get("exact_continuation")),
        max_new_tokens=more.get("max_new_tokens"),
        starts_on_demand=bool(more.get("starts_on_demand", True)),
        sees="vision" in (more.get("capabilities") or ()),
        structured="json_schema" in (more.get("capabilities") or ()),
    )


def _error(response: aiohttp.ClientResponse, body: bytes) -> GatewayError:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"The gateway answered {response.status}."
    try:
        retry_after = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        retry_after = None
    return GatewayError(response.status, message, retry_after)


class Gateway:
    """A connection pool to the gateway, one per worker process."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)
        )

    async def close(self) -> None:
        await self._session.close()

    async def count_tokens(self, model: str, messages: list[dict[str, Any]]) -> int:
        """Tokens of a conversation, template included, by the model's own tokenizer. Raises like `stream`."""
        try:
            async with (
                asyncio.timeout(5),
                self._session.post(
                    f"{config().gateway_url}/tokenize", json={"model": model, "messages": messages}, headers=_headers()
                ) as response,
            ):
                if response.status != 200:
                    raise _error(response, await response.read())
                return int((await response.json())["count"])
        except (aiohttp.ClientError, OSError, KeyError, ValueError) as error:
            raise StreamBroken(str(error)) from error

    async def complete(
        self, body: dict[str, Any], *, user: object, patience: float, work: str = "interactive"
    ) -> Completion:
        """The whole of a chat completion, of the class `work`. Raises like `stream`."""
        text = ""
        usage: dict[str, int] = {}
        stream = self.stream("chat/completions", body, user=user, patience=patience, work=work)
        async with aclosing(stream):
            async for kind, data in stream:
                if kind == "frame":
                    text += "".join((c.get("delta") or {}).get("content") or "" for c in data.get("choices") or ())
                    usage = data.get("usage") or usage
        return Completion(text, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)

    async def stream(
        self, path: str, body: dict[str, Any], *, user: object, patience: float, work: str = "interactive"
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """Post to `/v1/{path}` and yield `(event, data)` per frame, event being `status` or `frame`, until `[DONE]`.

        Raises `GatewayError` for a refusal, an error frame, or `patience` seconds without a byte, and `StreamBroken`
        for an end without `[DONE]`. Closing the iterator closes the connection, which stops the engine.
        """
        try:
            async with asyncio.timeout(patience) as until_headers:
                async with self._session.post(
                    f"{config().gateway_url}/{path}", json={**body, "stream": True}, headers=_headers(user, work)
                ) as response:
                    if response.status != 200:
                        raise _error(response, await response.read())
                    until_headers.reschedule(None)
                    async for event, data in _frames(response, patience):
                        if data == "[DONE]":
                            return
                        content = json.loads(data)
                        if not isinstance(content, dict):
                            continue
                        if "error" in content:
                            raise _error_frame(content["error"])
                        yield ("status" if event == "aiia.status" else "frame"), content
        except TimeoutError:
            raise _silent(patience) from None
        except (aiohttp.ClientError, ConnectionError, json.JSONDecodeError) as error:
            raise StreamBroken(str(error)) from error
        raise StreamBroken("the stream ended early")


def _error_frame(error: Any) -> GatewayError:
    """An error that came after the headers. `status` is what it would have been; other servers put it into `code`."""
    if not isinstance(error, dict):
        return GatewayError(500, str(error or "The model failed."))
    status = next((int(error[key]) for key in ("status", "code") if str(error.get(key)).isdigit()), 500)
    return GatewayError(status, str(error.get("message") or "The model failed."), error.get("retry_after_s"))


def _silent(seconds: float) -> GatewayError:
    return GatewayError(504, f"no word for {seconds:.0f} s")


async def _frames(response: aiohttp.ClientResponse, patience: float) -> AsyncIterator[tuple[str, str]]:
    """The server-sent events of a response as `(event, data)`."""
    event = "message"
    data: list[str] = []
    buffer = b""
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await response.content.readany()
        except TimeoutError:
            raise _silent(patience) from None
        if not chunk:
            return
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for raw in lines:
            line = raw.rstrip(b"\r").decode()
            if not line:
                if data:
                    yield event, "\n".join(data)
                event, data = "message", []
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif line.startswith("event:"):
                event = line[6:].strip()
