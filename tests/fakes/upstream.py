"""A fake model server with OpenAI's protocol as vLLM speaks it, settable in speed and in the ways it fails.

``python -m tests.fakes.upstream --port 0`` prints its port and serves until its standard input closes (with
``--exit-with-stdin``) or it gets SIGTERM. Beside ``/v1`` it has:

- ``POST /control``: JSON with any of the fields of ``Behaviour``; answers all of them;
- ``GET /stats``: counts of requests; ``?running=0&wait=5`` answers when that many run or the wait (s) is over;
- ``POST /tokenize``: vLLM's count of a conversation's tokens;
- ``GET /requests``: path, headers and body of the last requests, oldest first.
"""

import argparse
import asyncio
import json
import re
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal
from urllib.parse import parse_qs

import uvicorn

from aiia_serving.images.problem import ImageProblem
from tests.fakes.answers import (
    EOS_ID,
    FIRST_ID,
    chat_prompt_ids,
    embeddings,
    example,
    position_after,
    reranking,
    scores,
    token_text,
    tokenize,
)
from tests.fakes.images import CAPABILITIES, accepted, drawing

Fault = Literal[
    "none",
    "die",  # cut the connection after `fault_after` tokens; 0: after the headers
    "refuse",  # cut the connection before any byte of an answer
    "no_done",  # end in good order after `fault_after` tokens, without [DONE]
    "error_frame",  # vLLM's error frame and then [DONE], after `fault_after` tokens
    "stall",  # go silent for ever after `fault_after` tokens
    "hang",  # never answer, not even with headers
    "status",  # answer `fault_status` with OpenAI's error body
    "html",  # answer `fault_status` with a proxy's page instead of JSON
]


@dataclass
class Behaviour:
    """How the fake answers. Times in seconds, ``tokens_per_second`` 0 means as fast as possible."""

    models: list[str] = field(default_factory=lambda: ["fake"])
    tokens: int = 64
    tokens_per_second: float = 0
    first_token_s: float = 0
    reasoning_tokens: int = 0
    # What it answers instead to a conversation that has a text in it: `{text: answer}`.
    says: dict[str, str] = field(default_factory=dict)
    # How many calls it answers with when it has tools and no results yet.
    calls: int = 0
    fault: Fault = "none"
    fault_after: int = 0
    fault_status: int = 500
    # Whether errors quote what was asked, as those of some servers do.
    fault_quotes: bool = False
    # How many requests the fault hits before it clears; -1: all.
    fault_times: int = -1
    require_key: str | None = None
    # Of images; `fault_after` counts their steps.
    step_s: float = 0
    nan_image: bool = False
    # Added to the text of every token, for characters that no database takes.
    poison: str = ""
    # What ends the lines of a stream of text.
    line_end: str = "\n"


JSON_ROUTES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "POST /v1/embeddings": embeddings,
    "POST /v1/rerank": reranking,
    "POST /v1/score": scores,
}


class CutError(Exception):
    """Ends the connection at once: uvicorn closes the socket when an application fails after its headers."""


class Upstream:
    """The ASGI application."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.stats = {"running": 0, "started": 0, "finished": 0, "disconnected": 0, "faulted": 0}
        self.requests: deque[dict[str, Any]] = deque(maxlen=1000)
        self._changed = asyncio.Condition()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        route = f"{scope['method']} {scope['path']}"
        body = await _read_body(receive)
        if route == "POST /control":
            known = {f.name for f in fields(Behaviour)}
            for name, value in json.loads(body).items():
                if name not in known:
                    await _json(send, 400, {"error": f"no such setting: {name}"})
                    return
                setattr(self.behaviour, name, value)
            await _json(send, 200, asdict(self.behaviour))
            return
        if route == "GET /stats":
            await self._stats(scope, send)
            return
        if route == "GET /requests":
            await _json(send, 200, list(self.requests))
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        key = self.behaviour.require_key
        if key is not None and headers.get("authorization") != f"Bearer {key}":
            await _error(send, 401, "Incorrect API key provided.", "AuthenticationError")
            return
        if route == "GET /v1/models":
            listed = [{"id": m, "object": "model", "created": 0, "owned_by": "fake"} for m in self.behaviour.models]
            await _json(send, 200, {"object": "list", "data": listed})
            return
        if route == "POST /tokenize":
            ids = chat_prompt_ids(json.loads(body)["messages"])
            await _json(send, 200, {"count": len(ids), "max_model_len": 8192, "tokens": ids})
            return
        if route in ("POST /v1/chat/completions", "POST /v1/completions"):
            request = json.loads(body)
            self.requests.append({"path": scope["path"], "headers": headers, "body": request})
            await self._watched(self._answer(scope["path"], request, send), receive)
            return
        if route == "GET /v1/images/capabilities":
            await _json(send, 200, CAPABILITIES)
            return
        if route == "POST /v1/images/jobs":
            request = json.loads(body)
            self.requests.append({"path": scope["path"], "headers": headers, "body": request})
            await self._watched(self._draw(request, send), receive)
            return
        if answer := JSON_ROUTES.get(route):
            request = json.loads(body)
            self.requests.append({"path": scope["path"], "headers": headers, "body": request})
            await self._watched(self._answer_whole(answer, request, send), receive)
            return
        await _error(send, 404, "Not Found", "NotFoundError")
        return

    async def _stats(self, scope: dict[str, Any], send: Any) -> None:
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        if "running" in query:
            wanted = int(query["running"])
            try:
                async with asyncio.timeout(float(query.get("wait", "5"))), self._changed:
                    await self._changed.wait_for(lambda: self.stats["running"] == wanted)
            except TimeoutError:
                pass
        await _json(send, 200, self.stats)

    async def _count(self, **changes: int) -> None:
        async with self._changed:
            for name, change in changes.items():
                self.stats[name] += change
            self._changed.notify_all()

    async def _watched(self, answering: Coroutine[Any, Any, None], receive: Any) -> None:
        await self._count(running=1, started=1)
        outcome = "finished"
        work = asyncio.create_task(answering)
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                outcome = "disconnected"
                work.cancel()
            await work
        except asyncio.CancelledError:
            pass
        except CutError:
            outcome = "faulted"
            raise
        finally:
            gone.cancel()
            await self._count(running=-1, **{outcome: 1})

    def _take_fault(self) -> Fault:
        behaviour = self.behaviour
        if behaviour.fault == "none" or behaviour.fault_times == 0:
            return "none"
        if behaviour.fault_times > 0:
            behaviour.fault_times -= 1
        return behaviour.fault

    def _quoting(self, message: str, request: dict[str, Any]) -> str:
        return f"{message} Input: {json.dumps(request)}" if self.behaviour.fault_quotes else message

    async def _refuses(self, fault: Fault, request: dict[str, Any], send: Any) -> bool:
        """Whether the request has been answered already, with what the fault says or an error."""
        if fault == "refuse":
            # An application that only raises makes uvicorn answer 500; the socket itself has to go.
            send.__self__.transport.abort()
            raise CutError
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "status":
            message = self._quoting("The fake was told to fail.", request)
            await _error(send, self.behaviour.fault_status, message, "InternalServerError")
            return True
        if fault == "html":
            page = b"<html><body><h1>Server Error</h1></body></html>\n"
            await _respond(send, self.behaviour.fault_status, page, b"text/html")
            return True
        if request.get("model") not in self.behaviour.models:
            message = f"The model `{request.get('model')}` does not exist."
            await _error(send, 404, message, "NotFoundError", "model")
            return True
        if (request.get("max_tokens") or 1) < 1:
            await _error(send, 400, "max_tokens must be at least 1.", "BadRequestError", "max_tokens")
            return True
        return False

    async def _answer_whole(
        self, answer: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any], send: Any
    ) -> None:
        if await self._refuses(self._take_fault(), request, send):
            return
        await asyncio.sleep(self.behaviour.first_token_s)
        await _json(send, 200, {"model": request["model"], **answer(request)})

    async def _draw(self, request: dict[str, Any], send: Any) -> None:
        fault = self._take_fault()
        if await self._refuses(fault, {**request, "model": self.behaviour.models[0]}, send):
            return
        try:
            job = accepted(request)
        except ImageProblem as problem:
            await _json(send, problem.status, problem.body())
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        done = 0
        async for event, steps in drawing(job, self.behaviour.step_s, self.behaviour.nan_image):
            if fault != "none" and done + steps > self.behaviour.fault_after:
                break
            done += steps
            await send({"type": "http.response.body", "body": b"data: %b\n\n" % _dump(event), "more_body": True})
        if fault == "die":
            raise CutError
        if fault == "stall":
            await asyncio.Event().wait()
        await send({"type": "http.response.body", "body": b"" if fault == "no_done" else b"data: [DONE]\n\n"})

    async def _answer(self, path: str, request: dict[str, Any], send: Any) -> None:
        fault = self._take_fault()
        if await self._refuses(fault, request, send):
            return
        answer = Answer(path == "/v1/chat/completions", request, self.behaviour)
        if not request.get("stream"):
            if self.behaviour.first_token_s:
                await asyncio.sleep(self.behaviour.first_token_s)
            await _json(send, 200, await answer.whole())
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sent = 0
        async for frame, tokens in answer.frames():
            if fault != "none" and sent + tokens > self.behaviour.fault_after:
                break
            await send({"type": "http.response.body", "body": self._event(frame), "more_body": True})
            sent += tokens
        if fault == "die":
            raise CutError
        if fault == "stall":
            await asyncio.Event().wait()
        if fault == "error_frame":
            message = self._quoting("EngineCore died", request)
            error = {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}
            await send({"type": "http.response.body", "body": self._event(_dump(error)), "more_body": True})
        last = b"" if fault == "no_done" else self._event(b"[DONE]")
        await send({"type": "http.response.body", "body": last})

    def _event(self, data: bytes) -> bytes:
        return b"data: " + data + 2 * self.behaviour.line_end.encode()


class Answer:
    """One answer to a chat or completion request."""

    def __init__(self, chat: bool, request: dict[str, Any], behaviour: Behaviour) -> None:
        self.chat = chat
        self.request = request
        self.behaviour = behaviour
        prompt = request.get("messages") if chat else request.get("prompt")
        if chat:
            self.prompt_ids = chat_prompt_ids(prompt or [])
        else:
            self.prompt_ids = list(prompt) if isinstance(prompt, list) else tokenize(prompt or "")
        self.start = position_after(self.prompt_ids)
        limit = request.get("max_completion_tokens") or request.get("max_tokens") or 1_000_000
        self.end = min(behaviour.tokens, self.start + limit)
        self.cut_short = self.end < behaviour.tokens
        self.base = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-fake",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": request.get("model"),
        }

    async def frames(self) -> AsyncIterator[tuple[bytes, int]]:
        """The data of each SSE frame but the last, and how many tokens it carries, at the set pace."""
        if deltas := self._structured():
            async for data in self._structured_frames(deltas):
                yield data, 1
            return
        behaviour, with_ids = self.behaviour, bool(self.request.get("return_token_ids"))
        if behaviour.first_token_s:
            await asyncio.sleep(behaviour.first_token_s)
        if self.chat:
            first = self._frame({"role": "assistant", "content": ""}, None, None)
            if with_ids:
                first["prompt_token_ids"] = self.prompt_ids
            yield _dump(first), 0
        started = time.monotonic()
        for position in range(self.start, self.end):
            if behaviour.tokens_per_second:
                due = started + (position - self.start) / behaviour.tokens_per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            else:
                await asyncio.sleep(0)
            finish = "length" if self.cut_short and position == self.end - 1 else None
            frame = self._frame(self._delta(position), finish, [FIRST_ID + position] if with_ids else None)
            if not self.chat and with_ids and position == self.start:
                frame["choices"][0]["prompt_token_ids"] = self.prompt_ids
            yield _dump(frame), 1
        if not self.cut_short:
            yield _dump(self._frame({"content": ""}, "stop", [EOS_ID] if with_ids else None)), 0
        if (self.request.get("stream_options") or {}).get("include_usage"):
            yield _dump({**self.base, "choices": [], "usage": self._usage()}), 0

    def _structured(self) -> list[dict[str, Any]]:
        """The deltas of an answer that is given, a call of tools, or JSON; none for one that is made up."""
        asked = json.dumps(self.request.get("messages") or [], ensure_ascii=False)
        if said := next((said for text, said in self.behaviour.says.items() if text in asked), None):
            return [{"content": piece} for piece in re.split(r"(?<= )", said)]
        tools = self.request.get("tools") or []
        if tools and self.behaviour.calls and all(m["role"] != "tool" for m in self.request["messages"]):
            thoughts = [{"reasoning": token_text(position)} for position in range(self.behaviour.reasoning_tokens)]
            called = [tools[number % len(tools)]["function"] for number in range(self.behaviour.calls)]
            return thoughts + [delta for number, tool in enumerate(called) for delta in _call(number, tool)]
        wanted = self.request.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            text = json.dumps(example(wanted["json_schema"]["schema"]))
            return [{"content": text[:5]}, {"content": text[5:]}]
        return []

    async def _structured_frames(self, deltas: list[dict[str, Any]]) -> AsyncIterator[bytes]:
        yield _dump(self._frame({"role": "assistant", "content": ""}, None, None))
        for delta in deltas:
            await asyncio.sleep(0)
            yield _dump(self._frame(delta, None, None))
        finish = "tool_calls" if "tool_calls" in deltas[-1] else "stop"
        yield _dump(self._frame({"content": ""}, finish, None))
        if (self.request.get("stream_options") or {}).get("include_usage"):
            prompt, answered = len(self.prompt_ids), len(deltas)
            usage = {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}
            yield _dump({**self.base, "choices": [], "usage": usage})

    async def whole(self) -> dict[str, Any]:
        """The body of a plain answer."""
        text = "".join(token_text(position) for position in range(self.start, self.end))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if self.cut_short else "stop", "logprobs": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        name = "chat.completion" if self.chat else "text_completion"
        return {**self.base, "object": name, "choices": [choice], "usage": self._usage()}

    def _delta(self, position: int) -> dict[str, str]:
        thinking = self.chat and position < self.behaviour.reasoning_tokens
        return {"reasoning" if thinking else "content": token_text(position) + self.behaviour.poison}

    def _frame(self, delta: dict[str, Any], finish: str | None, ids: list[int] | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        if self.chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta["content"]
        if ids is not None:
            choice["token_ids"] = ids
        return {**self.base, "choices": [choice]}

    def _usage(self) -> dict[str, int]:
        answered = max(0, self.end - self.start) + (0 if self.cut_short else 1)
        prompt = len(self.prompt_ids)
        return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}


def _call(number: int, function: dict[str, Any]) -> list[dict[str, Any]]:
    """The deltas of one call as vLLM sends them: its name, then its arguments in pieces."""
    arguments = json.dumps(example(function.get("parameters") or {}))
    half = len(arguments) // 2
    named = {"name": function["name"], "arguments": ""}
    first = {"index": number, "id": f"call-{number}", "type": "function", "function": named}
    rest = [{"index": number, "function": {"arguments": piece}} for piece in (arguments[:half], arguments[half:])]
    return [{"tool_calls": [delta]} for delta in (first, *rest)]


async def _read_body(receive: Any) -> bytes:
    body: bytes = b""
    while True:
        message: dict[str, Any] = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _dump(value: Any) -> bytes:
    dumped: bytes = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return dumped


async def _respond(send: Any, status: int, body: bytes, content_type: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _json(send: Any, status: int, value: Any) -> None:
    await _respond(send, status, _dump(value), b"application/json")


async def _error(send: Any, status: int, message: str, kind: str, param: str | None = None) -> None:
    await _json(send, status, {"error": {"message": message, "type": kind, "param": param, "code": status}})


async def _serve(port: int, behaviour: Behaviour, exit_with_stdin: bool) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by its connections; event loops set it only on sockets that they make themselves.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    config = uvicorn.Config(
        Upstream(behaviour), log_level="critical", access_log=False, timeout_graceful_shutdown=0, loop="uvloop"
    )
    server = uvicorn.Server(config)
    if exit_with_stdin:
        # A test run that is killed must not leave its fakes behind.
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

        async def watch() -> None:
            await reader.read()
            server.should_exit = True

        watcher = asyncio.create_task(watch())
        server_done = asyncio.create_task(server.serve(sockets=[listener]))
        print(listener.getsockname()[1], flush=True)
        await server_done
        watcher.cancel()
        return
    print(listener.getsockname()[1], flush=True)
    await server.serve(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake model server with OpenAI's protocol.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--exit-with-stdin", action="store_true")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON object of Behaviour's fields")
    options = parser.parse_args()
    asyncio.run(_serve(options.port, Behaviour(**options.settings), options.exit_with_stdin))


if __name__ == "__main__":
    main()
