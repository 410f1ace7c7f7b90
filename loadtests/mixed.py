"""Mixed work for a gateway, as many users send it, and whether each answer is what it should be."""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import aiohttp

from tests.fakes.answers import answer_text, vector

#: How a request ended. ``cut``: the connection broke, or a stream ended without [DONE] and without an error.
Ended = Literal["complete", "left", "error", "cut", "unreachable", "wrong"]

_WORDS = ["the", "sea", "was", "calm", "and", "a", "daughter", "of", "that", "fisherman", "wrote", "about", "wind"]
_COMPLETION_S = 600


@dataclass(frozen=True)
class Request:
    """``expected``: the text or the vectors of the answer, None if any will do. ``refusal``: the status that is right.
    ``leaves_after``: the caller goes away after so many frames of a stream, or seconds of a plain answer."""

    kind: str
    path: str
    body: dict[str, Any]
    expected: Any = None
    refusal: int | None = None
    leaves_after: float | None = None
    key: str | None = None


@dataclass
class Result:
    """Times in seconds; ``began`` of ``time.monotonic()``. ``detail``: status and code of an error, or what broke."""

    kind: str
    gateway: str
    began: float
    request_id: str = ""
    ended: Ended = "complete"
    detail: str = ""
    first_token_s: float | None = None
    seconds: float = 0.0
    content: Any = field(default=None, repr=False)


class Mix:
    """Draws requests for a fake model whose answers have ``tokens`` tokens."""

    def __init__(self, dice: random.Random, model: str, tokens: int) -> None:
        self._dice = dice
        self._model = model
        self._tokens = tokens

    def draw(self) -> Request:
        kinds = ["stream", "plain", "leaves", "leaves plain", "completion", "embedding", "refused"]
        (kind,) = self._dice.choices(kinds, [8, 4, 3, 1, 2, 2, 1])
        limit = self._dice.randint(self._tokens // 8, self._tokens)
        chat = {"model": self._model, "messages": [{"role": "user", "content": self._prompt()}], "max_tokens": limit}
        text = answer_text(limit)
        match kind:
            case "stream":
                return Request(kind, "chat/completions", {**chat, "stream": True}, text)
            case "plain":
                return Request(kind, "chat/completions", chat, text)
            case "leaves":
                after = self._dice.randint(0, limit // 2)
                return Request(kind, "chat/completions", {**chat, "stream": True}, leaves_after=after)
            case "leaves plain":
                return Request(kind, "chat/completions", chat, leaves_after=self._dice.uniform(0, 0.2))
            case "completion":
                body = {"model": self._model, "prompt": self._prompt(), "max_tokens": limit, "stream": True}
                return Request(kind, "completions", body, text)
            case "embedding":
                inputs = [self._prompt() for _ in range(self._dice.randint(1, 4))]
                body = {"model": self._model, "input": inputs}
                return Request(kind, "embeddings", body, [vector(item) for item in inputs])
        return self._dice.choice(
            [
                Request(kind, "chat/completions", {**chat, "model": "nobody"}, refusal=404),
                Request(kind, "chat/completions", {**chat, "messages": "hello"}, refusal=400),
                Request(kind, "completions", {"model": self._model, "stop": {}}, refusal=400),
                Request(kind, "chat/completions", chat, refusal=401, key="sk-nobody"),
            ]
        )

    def _prompt(self) -> str:
        return " ".join(self._dice.choices(_WORDS, k=self._dice.randint(3, 200)))


class RealMix:
    """Draws from a few requests for a real model that does not sample, whose answers were once heard undisturbed."""

    def __init__(self, dice: random.Random, model: str) -> None:
        self._dice = dice
        subjects = ["the sea", "a fisherman", "a letter from Rome", "light and wind"]
        chats = [{"model": model, "messages": [{"role": "user", "content": f"Write about {s}."}]} for s in subjects]
        bodies = [{**chat, "max_tokens": limit, "temperature": 0} for chat in chats for limit in (12, 40)]
        self._kept = [
            *(Request("stream", "chat/completions", {**body, "stream": True}) for body in bodies),
            *(Request("plain", "chat/completions", body) for body in bodies),
        ]
        refused = {**chats[0], "model": "nobody"}
        self._others = [
            Request("leaves", "chat/completions", {**bodies[-1], "stream": True}, leaves_after=5),
            Request("leaves plain", "chat/completions", bodies[-1], leaves_after=0.5),
            Request("refused", "chat/completions", refused, refusal=404),
        ]

    async def listen(self, session: aiohttp.ClientSession, base_url: str, headers: Mapping[str, str]) -> int:
        """Keeps each answer as what is expected from now on, and returns how many there were.

        Raises ``RuntimeError`` for a model that does not work.
        """
        heard = []
        for request in self._kept:
            result = await ask(session, base_url, request, headers, "")
            if result.ended != "complete":
                raise RuntimeError(f"{request.kind}: {result.ended} {result.detail}")
            heard.append(replace(request, expected=result.content))
        self._kept = heard
        return len(heard)

    def draw(self) -> Request:
        return self._dice.choice(self._kept if self._dice.random() < 0.8 else self._others)


async def ask(
    session: aiohttp.ClientSession, base_url: str, request: Request, headers: Mapping[str, str], gateway: str
) -> Result:
    """Sends one request and reads its answer to the end, or as far as its caller would."""
    result = Result(request.kind, gateway, time.monotonic())
    if request.key:
        headers = {"Authorization": f"Bearer {request.key}"}
    try:
        async with asyncio.timeout(_COMPLETION_S):
            await _exchange(session, f"{base_url}/{request.path}", request, headers, result)
    except aiohttp.ClientConnectorError:
        result.ended, result.detail = "unreachable", "connection refused"
    except (aiohttp.ClientError, OSError) as error:
        # A server that is killed resets connections that it has not accepted yet.
        before = not result.request_id and isinstance(error, aiohttp.ServerDisconnectedError | OSError)
        result.ended, result.detail = "unreachable" if before else "cut", type(error).__name__
    except TimeoutError:
        result.ended, result.detail = "wrong", f"no end within {_COMPLETION_S} s"
    result.seconds = time.monotonic() - result.began
    return result


async def _exchange(
    session: aiohttp.ClientSession, url: str, request: Request, headers: Mapping[str, str], result: Result
) -> None:
    plain = not request.body.get("stream")
    try:
        async with (
            asyncio.timeout(request.leaves_after if plain else None),
            session.post(url, json=request.body, headers=headers) as response,
        ):
            result.request_id = response.headers.get("x-request-id", "")
            if response.status != 200:
                _take_error(result, request, response.status, await response.read())
            elif plain:
                _compare(result, request, _content(await response.json()))
            else:
                await _read_stream(response, request, result)
    except TimeoutError:
        if not (plain and request.leaves_after is not None):
            raise
        result.ended = "left"


async def _read_stream(response: aiohttp.ClientResponse, request: Request, result: Result) -> None:
    text, frames = "", 0
    async for line in response.content:
        if request.leaves_after is not None and frames >= request.leaves_after:
            result.ended = "left"
            return
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]\n":
            _compare(result, request, text)
            return
        frame = json.loads(line[6:])
        if "error" in frame:
            _take_error(result, request, frame["error"].get("status"), line[6:])
            return
        frames += 1
        for choice in frame["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"].get("content")
            if piece:
                text += piece
                result.first_token_s = result.first_token_s or time.monotonic() - result.began
    result.ended, result.detail = "cut", f"no [DONE] after {frames} frames"


def _content(body: dict[str, Any]) -> Any:
    if "data" in body:
        return [entry["embedding"] for entry in body["data"]]
    if "results" in body:
        return body["results"]
    choice = body["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def _compare(result: Result, request: Request, content: Any) -> None:
    result.content = content
    if request.refusal is not None:
        result.ended, result.detail = "wrong", "not refused"
    elif request.expected is not None and content != request.expected:
        result.ended, result.detail = "wrong", f"answer: {content!r:.300} expected: {request.expected!r:.300}"


def _take_error(result: Result, request: Request, status: int | None, body: bytes) -> None:
    try:
        error = json.loads(body)["error"]
        honest = bool(error["message"]) and bool(error["type"])
    except (ValueError, KeyError, TypeError):
        honest = False
    if not honest:
        result.ended, result.detail = "wrong", f"status {status} without OpenAI's error body: {body[:200]!r}"
        return
    result.ended, result.detail = "error", f"{status} {error.get('code')}"
    if status == request.refusal:
        result.ended, result.detail = "complete", ""
