"""The live tail of a generation: a Redis stream that one worker appends to and any number of readers follow.

Redis may be lost at any time. The writer goes on without it, and readers fall back to what Postgres holds.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any
from uuid import UUID

import redis.asyncio as redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aiia_platform.config import config
from aiia_platform.db import in_db
from aiia_platform.generations.answer import Answer
from aiia_platform.generations.models import Generation

log = logging.getLogger(__name__)

#: Seconds: how long a stream is kept after its last entry, and after its end, when all of it is in Postgres too; how
#: often a reader looks there while nothing arrives or Redis is gone, and how often it says that it is still there.
KEEP = 3600
KEEP_ENDED = 60
QUIET = 2.0
POLL = 0.4
PING = 10.0

_LAST = ("end", "afterword")


@dataclass(frozen=True)
class Text:
    """Append `text` at character `offset` of the answer; what was shown beyond it is void."""

    attempt: int
    offset: int
    text: str


@dataclass(frozen=True)
class Reasoning:
    """The same for what the model thinks before it answers."""

    attempt: int
    offset: int
    text: str


@dataclass(frozen=True)
class Status:
    """The phase in which the generation is, `{"phase": …, …figures}`."""

    detail: dict[str, Any]


@dataclass(frozen=True)
class End:
    """Nothing more comes."""

    state: str


@dataclass(frozen=True)
class Ping:
    """Nothing new, and the line is alive."""


Event = Text | Reasoning | Status | End | Ping


def connect() -> "redis.Redis | None":
    """A Redis client of the running event loop, or None when none is configured."""
    if not config().redis_url:
        return None
    return redis.Redis.from_url(
        config().redis_url,
        decode_responses=True,
        socket_connect_timeout=1,
        socket_timeout=QUIET + 3,
        retry=Retry(NoBackoff(), 0),
    )


def _key(generation_id: UUID) -> str:
    return f"aiia:generation:{generation_id}"


class Publisher:
    """The writing end, one per worker process. A failure is logged once and tried again a second later."""

    def __init__(self) -> None:
        self._redis = connect()
        self._down_until = 0.0

    async def publish(self, generation_id: UUID, **entry: Any) -> None:
        """Append an entry. Never raises for an unreachable Redis."""
        if self._redis is None or time.monotonic() < self._down_until:
            return
        key = _key(generation_id)
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.xadd(key, {"e": json.dumps(entry)})
                pipe.expire(key, KEEP_ENDED if entry["type"] in _LAST else KEEP)
                await pipe.execute()
        except (redis.RedisError, OSError) as error:
            log.warning("live stream unavailable, readers wait for the database: %s", error)
            self._down_until = time.monotonic() + 1

    async def entries(self, generation_id: UUID) -> list[dict[str, Any]]:
        """All entries so far; empty without Redis."""
        if self._redis is None:
            return []
        try:
            raw: Any = await self._redis.xrange(_key(generation_id))
        except (redis.RedisError, OSError) as error:
            log.warning("live stream unavailable: %s", error)
            return []
        return [json.loads(fields["e"]) for _, fields in raw]

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()


class Tail:
    """The reading end: the entries after the last one read."""

    def __init__(self, generation_id: UUID) -> None:
        self._key = _key(generation_id)
        self._redis = connect()
        self._last = "0"

    async def read(self, wait: float) -> list[dict[str, Any]] | None:
        """New entries, waiting up to `wait` seconds for the first; None when Redis cannot be reached."""
        if self._redis is None:
            return None
        try:
            found = await self._redis.xread({self._key: self._last}, block=max(1, int(wait * 1000)))
        except (redis.RedisError, OSError):
            # An empty Redis counts its ids anew.
            self._last = "0"
            return None
        if not found:
            return []
        streams = found.values() if isinstance(found, dict) else (entries for _, entries in found)
        raw = [pair for entries in streams for pair in _pairs(entries)]
        self._last = raw[-1][0]
        return [json.loads(fields["e"]) for _, fields in raw]

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()


def _pairs(entries: Any) -> list[tuple[str, dict[str, str]]]:
    # The third version of Redis's protocol nests the entries of a stream once more.
    return entries[0] if entries and isinstance(entries[0], list) else entries


async def load(generation_id: UUID) -> Generation:
    """The stored state. Raises `Generation.DoesNotExist` when the chat was deleted."""
    rows = Generation.objects.select_related("message").defer("prompt_ids", "output_ids")
    return await in_db(rows.get, pk=generation_id)


async def follow(generation_id: UUID) -> AsyncIterator[Event]:
    """Everything there is, then everything new, until the generation has ended.

    Ends with `End`; a deleted generation ends as `stopped`. Never raises for an unreachable Redis.
    """
    tail = Tail(generation_id)
    answer = Answer()
    sent = _Sent()
    status: dict[str, Any] | None = None
    last_word = time.monotonic()
    try:
        while True:
            # What Redis holds comes first; the row is read after it, so that an end which it shows is complete.
            entries = await tail.read(0.001 if status is None else QUIET)
            new_status = _apply(answer, entries or [])
            if not entries or answer.has_gap or any(entry["type"] == "end" for entry in entries):
                try:
                    row = await load(generation_id)
                except Generation.DoesNotExist:
                    yield End(Generation.State.STOPPED)
                    return
                answer.load(row.attempt, row.message.text, row.message.reasoning)
                if not row.is_active:
                    # The row is the truth: a worker that lost its claim may have sent more than was kept.
                    answer.text, answer.reasoning = row.message.text, row.message.reasoning
                    for event in sent.catch_up(answer):
                        yield event
                    yield Status(row.status)
                    yield End(row.state)
                    return
                new_status = new_status or (row.status if entries is None or status is None else None)
            for event in sent.catch_up(answer):
                last_word = time.monotonic()
                yield event
            if new_status and new_status != status:
                status = new_status
                last_word = time.monotonic()
                yield Status(status)
            if time.monotonic() - last_word > PING:
                last_word = time.monotonic()
                yield Ping()
            if entries is None:
                await asyncio.sleep(POLL)
    finally:
        await tail.close()


def _apply(answer: Answer, entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Bring the answer up to date; the last status among the entries."""
    status = None
    for entry in entries:
        match entry["type"]:
            case "begin":
                answer.begin(entry["attempt"], entry["text_at"], entry["reasoning_at"])
            case "delta":
                answer.add(entry["attempt"], entry["channel"], entry["at"], entry["text"])
            case "status":
                status = entry["status"]
            case "end":
                # What is said after a retry does not stand in the entries before it.
                status = None
    return status


class _Sent:
    """How much of an answer one reader has."""

    def __init__(self) -> None:
        self._text = self._reasoning = ""

    def catch_up(self, answer: Answer) -> list[Event]:
        """The events that bring the reader to `answer`."""
        events: list[Event] = []
        for kind, old, new in ((Reasoning, self._reasoning, answer.reasoning), (Text, self._text, answer.text)):
            if old != new:
                at = len(commonprefix((old, new)))  # noqa: RUF071  # characters are meant
                events.append(kind(answer.attempt, at, new[at:]))
        self._text, self._reasoning = answer.text, answer.reasoning
        return events
