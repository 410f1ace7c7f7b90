"""The connection to a model."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from aiia_serving import tracing
from aiia_serving.gateway.errors import ApiError, stalled, upstream_failed
from aiia_serving.gateway.wire import Client, Response, WireError
from aiia_serving.state import ModelState

_CONNECT_S = 5
# For the body of an answer that is no stream.
_READ_S = 60


class UpstreamLostError(Exception):
    """The way to the model, or the model's process, failed before it answered: another try may succeed.

    ``said`` is the model's own error, if it could still send one.
    """

    def __init__(self, why: str, said: ApiError | None = None) -> None:
        super().__init__(why)
        self.said = said


def new_session() -> aiohttp.ClientSession:
    """A client for our own roles and for a model's short answers."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
    )


async def open_stream(
    client: Client, model: ModelState, path: str, payload: dict[str, Any], headers: Mapping[str, str]
) -> Response:
    """Sends a request and returns the response once its headers say that a stream follows.

    ``path`` is relative to the model's base URL. Raises ``UpstreamLostError``, or ``ApiError`` when the model refuses.
    """
    response = await _send(client, model, path, payload, {"Accept": "text/event-stream", **headers})
    if response.content_type == "text/event-stream":
        return response
    await _whole(response)
    raise upstream_failed("The model did not answer with a stream.")


async def ask(
    client: Client, model: ModelState, path: str, payload: dict[str, Any], headers: Mapping[str, str], limit_s: float
) -> dict[str, Any]:
    """Sends a request and returns the model's JSON object. Raises as ``open_stream`` does."""
    try:
        async with asyncio.timeout(limit_s):
            response = await _send(client, model, path, payload, {"Accept": "application/json", **headers})
            answer = json.loads(await _whole(response))
    except TimeoutError:
        raise stalled() from None
    except ValueError as error:
        raise upstream_failed("The model's answer is not JSON.") from error
    if not isinstance(answer, dict):
        raise upstream_failed("The model's answer is not a JSON object.")
    return answer


async def _send(
    client: Client, model: ModelState, path: str, payload: dict[str, Any], extra: Mapping[str, str]
) -> Response:
    """The response of a model that took the request, its body not read yet."""
    if model.upstream is None:
        raise UpstreamLostError("the model has no address yet")
    # Compressed events would have to be unpacked to be relayed.
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **tracing.headers(), **extra}
    if model.upstream.api_key:
        headers["Authorization"] = f"Bearer {model.upstream.api_key}"
    if model.engine == "vllm":
        # Without it Ray Serve hides the caller's leaving from vLLM.
        headers["x-request-disconnect-disabled"] = "?1"
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    try:
        response = await client.post(model.upstream.base_url.rstrip("/") + path, body, headers)
    except WireError as error:
        raise UpstreamLostError(f"{error} on the way to the model") from error
    if response.status == 200:
        return response
    raise _refusal(response, await _whole(response))


async def _whole(response: Response) -> bytes:
    try:
        async with asyncio.timeout(_READ_S):
            return await response.read()
    except (WireError, TimeoutError) as error:
        raise UpstreamLostError(f"{error or 'silence'} on the way to the model") from error
    finally:
        response.release()


def _refusal(response: Response, answer: bytes) -> Exception:
    status = response.status
    error = _error_object(answer)
    if status >= 500:
        # HAProxy's and Serve's own pages say that no replica could be reached; the model's own error is JSON.
        return UpstreamLostError(f"status {status}" + (f": {error['message']}" if error else ""))
    message = str(error["message"]) if error else f"The model answered with status {status}."
    if status in (401, 403):
        return upstream_failed(
            "The endpoint of this model refused the key it was configured with.", code="upstream_auth"
        )
    if status == 429:
        return ApiError(
            429, message, kind="rate_limit_error", code="upstream_busy", retry_after_s=_retry_after(response)
        )
    if status == 404:
        # Serve's router answers 404 for an application that it does not know yet, or no longer.
        return UpstreamLostError(f"status 404: {message}")
    code = error.get("code") if error else None
    param = error.get("param") if error else None
    return ApiError(
        status if status in (400, 413, 422) else 400, message, code=str(code or "invalid_request"), param=param
    )


def _error_object(answer: bytes) -> dict[str, Any] | None:
    try:
        error = json.loads(answer).get("error")
    except (ValueError, AttributeError):
        return None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) and "message" in error else None


def _retry_after(response: Response) -> float:
    try:
        return float(response.headers.get("retry-after", "1"))
    except ValueError:
        return 1.0
