"""One gateway's line to Redis: scripts in the order they were called, batched, and the messages of others."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

log = logging.getLogger(__name__)

# An answer is late when so many looks, spread over the time it may take, have not seen it.
_LOOKS = 4
_BACKOFF_S = (0.05, 0.1, 0.2, 0.5)
_FOLDER = files("aiia_serving.queue") / "lua"
_COMMON = (_FOLDER / "common.lua").read_text()
#: Name -> source of each, with what they share in front.
SCRIPTS = {
    name: _COMMON + (_FOLDER / f"{name}.lua").read_text()
    for name in ("enter", "release", "capacity", "tick", "register", "view")
}


class LinkDownError(Exception):
    """Redis is away. Whether the script ran is not known."""


@dataclass
class _Call:
    script: str
    key: str
    args: tuple[Any, ...]
    answer: "asyncio.Future[Any]"


class Link:
    """Connects, and connects again after every failure.

    All calls go over one connection in the order they were made; those made while an answer is awaited go together.
    ``on_up`` runs after every connect, before any other call; what it raises counts as a failure. ``on_message`` gets
    what is published on ``channel``. A server that does not answer within ``timeout_s``, or answers with an
    error (out of memory, read-only), is down.
    """

    def __init__(
        self,
        url: str,
        channel: str,
        *,
        on_up: Callable[[], Awaitable[None]],
        on_down: Callable[[], None],
        on_message: Callable[[str], None],
        timeout_s: float = 1.0,
    ) -> None:
        self._url = url
        self._channel = channel
        self._on_up = on_up
        self._on_down = on_down
        self._on_message = on_message
        self._timeout_s = timeout_s
        self._hashes: dict[str, str] = {}
        self._calls: list[_Call] = []
        self._awaited: list[_Call] = []
        self._some = asyncio.Event()
        self.up = False
        #: Set once the first attempt to connect has ended, either way.
        self.tried = asyncio.Event()
        self._task = asyncio.create_task(self._keep())

    def post(self, script: str, key: str, *args: Any) -> "asyncio.Future[Any]":
        """Runs a script on the model's base ``key``. The future fails with ``LinkDownError`` when Redis is away."""
        call = _Call(script, key, args, asyncio.get_running_loop().create_future())
        # Who does not await the answer must not be told in the log that it failed.
        call.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        if self._hashes:
            self._calls.append(call)
            self._some.set()
        else:
            call.answer.set_exception(LinkDownError("not connected"))
        return call.answer

    async def close(self) -> None:
        """Sends what was called, then disconnects."""
        if self.up:
            last = [call.answer for call in self._calls]
            await asyncio.wait(last, timeout=self._timeout_s) if last else None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        attempt = 0
        while True:
            try:
                await self._connect()
            except (RedisError, OSError, TimeoutError, LinkDownError) as error:
                log.warning(
                    "redis not reachable", extra={"fields": {"error": str(error)[:200] or type(error).__name__}}
                )
            _stop_if_cancelled()
            attempt = 0 if self.up else attempt + 1
            self._fall()
            await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])

    def _fall(self) -> None:
        was_up, self.up = self.up, False
        self._awaited = []
        self._hashes = {}
        calls, self._calls = self._calls, []
        for call in calls:
            _fail(call)
        self.tried.set()
        if was_up:
            self._on_down()

    async def _connect(self) -> None:
        once = Retry(NoBackoff(), 0)
        client = Redis.from_url(
            self._url,
            single_connection_client=True,
            # How long an answer may take is `_watch`'s to say.
            socket_timeout=None,
            socket_connect_timeout=self._timeout_s,
            retry=once,
            decode_responses=True,
        )
        # Its one connection waits for messages, for as long as there are none.
        ears = Redis.from_url(
            self._url,
            socket_timeout=None,
            socket_connect_timeout=self._timeout_s,
            retry=once,
            decode_responses=True,
        )
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._timeout_s):
                await stack.enter_async_context(client)
                await stack.enter_async_context(ears)
                pubsub = await stack.enter_async_context(ears.pubsub(ignore_subscribe_messages=True))
                await pubsub.subscribe(self._channel)
                await self._load(client)
            _stop_if_cancelled()
            work = (self._send(client), self._listen(pubsub), self._watch())
            tasks = [asyncio.create_task(coroutine) for coroutine in work]
            try:
                await self._on_up()
                self.up = True
                self.tried.set()
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, client: Redis) -> None:
        pipe = client.pipeline(transaction=False)
        for source in SCRIPTS.values():
            pipe.script_load(source)
        self._hashes = dict(zip(SCRIPTS, await pipe.execute(), strict=True))

    async def _listen(self, pubsub: Any) -> None:
        async for message in pubsub.listen():
            self._on_message(message["data"])

    async def _send(self, client: Redis) -> None:
        while True:
            _stop_if_cancelled()
            await self._some.wait()
            self._some.clear()
            calls, self._calls = self._calls, []
            self._awaited = calls
            try:
                answers = await self._execute(client, calls)
                unknown = [call for call, answer in zip(calls, answers, strict=True) if _is_unknown(answer)]
                if unknown:
                    # Someone flushed the scripts.
                    await self._load(client)
                    again = iter(await self._execute(client, unknown))
                    answers = [next(again) if _is_unknown(answer) else answer for answer in answers]
                for answer in answers:
                    if isinstance(answer, Exception):
                        raise answer
            except BaseException:
                for call in calls:
                    _fail(call)
                raise
            for call, answer in zip(calls, answers, strict=True):
                if not call.answer.done():
                    call.answer.set_result(answer)
            self._awaited = []

    async def _execute(self, client: Redis, calls: list[_Call]) -> list[Any]:
        pipe = client.pipeline(transaction=False)
        for call in calls:
            pipe.evalsha(self._hashes[call.script], 1, call.key, *call.args)
        return await pipe.execute(raise_on_error=False)

    async def _watch(self) -> None:
        """Gives up on a server that is silent. A process that was itself kept from running sees no silence in that."""
        seen, looks = self._awaited, 0
        while looks < _LOOKS:
            await asyncio.sleep(self._timeout_s / _LOOKS)
            looks = looks + 1 if self._awaited and self._awaited is seen else 0
            seen = self._awaited
        for call in seen:
            _fail(call)
        raise TimeoutError("no answer")


def _stop_if_cancelled() -> None:
    # The client swallows a cancellation that comes together with an answer (Python 3.11) or a failure.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _is_unknown(answer: Any) -> bool:
    return isinstance(answer, NoScriptError)


def _fail(call: _Call) -> None:
    if not call.answer.done():
        call.answer.set_exception(LinkDownError("connection lost"))
