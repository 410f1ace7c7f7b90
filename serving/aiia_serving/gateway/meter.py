"""Usage on its way to the platform: each request exactly once, whatever fails in between.

A gateway keeps a record until the platform has stored it, so that a death of Redis loses none. A copy goes into a Redis
stream at once; one that is still there after a while belonged to a gateway that died, and any other sends it. A record
may be sent twice; the platform keeps one per request id.
"""

import asyncio
import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import redis.asyncio as redis
from redis.exceptions import RedisError

from aiia_serving.gateway.usage import Outcome, Usage
from aiia_serving.queue import Work

log = logging.getLogger(__name__)

STREAM = "aiia:usage"
_BATCH = 200
# So that many requests' records go together; the copy in Redis does not wait for it.
_GATHER_S = 0.2
_RETRY_S = 1.0
_ADOPT_EVERY_S = 5.0
# By then the gateway that wrote a copy has sent the record, or is dead, or the platform is away.
_ADOPT_AFTER_S = 15
_TIMEOUT_S = 10
# Of records that neither Redis nor the platform takes; a day of one busy gateway.
_MAX_HELD = 100_000


@dataclass
class _Held:
    """A record on its way to the platform, and the id of its copy in Redis."""

    record: dict[str, Any]
    copy: bytes | None = None
    sent: bool = False


class Meter:
    """Takes records without waiting, and delivers them for as long as it is open."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        platform_url: str,
        internal_token: str | None,
        redis_url: str,
    ) -> None:
        self._session = session
        self._url = platform_url.rstrip("/") + "/internal/usage"
        self._headers = {"Authorization": f"Bearer {internal_token}"}
        self._redis = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=5) if redis_url else None
        self._held: list[_Held] = []
        self._adopted_at = 0.0
        self._wake = asyncio.Event()
        self._closing = False
        self._uncopied = asyncio.Event()
        self._copying = asyncio.create_task(self._copy_on(self._redis)) if self._redis is not None else None
        self._task = asyncio.create_task(self._deliver())

    def record(self, usage: Usage, outcome: Outcome) -> None:
        self._hold(usage.record(outcome))

    def abandoned(self, work: Work, cost: float) -> None:
        """Records a request whose gateway died, by what the queue knew of it."""
        self.record(Usage.lost(work, cost), "lost")

    async def close(self) -> None:
        """Tries once more to hand on what is held, then ends."""
        self._closing = True
        self._wake.set()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._task
        except TimeoutError:
            log.error("usage records lost", extra={"fields": {"records": len(self._held)}})
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.gather(self._copying, return_exceptions=True)
        if self._redis is not None:
            await self._redis.aclose()

    def _hold(self, record: dict[str, Any]) -> None:
        if len(self._held) < _MAX_HELD:
            self._held.append(_Held(record))
            self._uncopied.set()
        self._wake.set()

    async def _deliver(self) -> None:
        while True:
            if len(self._held) < _BATCH and not self._closing:
                await asyncio.sleep(_GATHER_S)
            delivered = False
            try:
                delivered = await self._deliver_once()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("usage not delivered", extra={"fields": {"error": type(error).__name__}})
            if self._closing:
                return
            if delivered:
                continue
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), _RETRY_S)
            except TimeoutError:
                continue

    async def _deliver_once(self) -> bool:
        """Whether there was anything to deliver. Raises for a platform that does not take it."""
        batch = self._held[:_BATCH]
        if batch:
            await self._send([held.record for held in batch])
            del self._held[: len(batch)]
            for held in batch:
                held.sent = True
            await self._drop([held.copy for held in batch if held.copy is not None])
            return True
        if time.monotonic() - self._adopted_at < _ADOPT_EVERY_S:
            return False
        self._adopted_at = time.monotonic()
        left_behind = await self._left_behind()
        if left_behind:
            await self._send(list(left_behind.values()))
            await self._drop(list(left_behind))
            self._adopted_at = 0.0
        return bool(left_behind)

    async def _copy_on(self, client: redis.Redis) -> None:
        """Copies what is new, whatever the platform is doing meanwhile."""
        while True:
            await self._uncopied.wait()
            self._uncopied.clear()
            new = [held for held in self._held if held.copy is None]
            try:
                async with client.pipeline(transaction=True) as pipe:
                    for held in new:
                        pipe.xadd(STREAM, {"record": json.dumps(held.record)})
                    copies = await pipe.execute()
            except (RedisError, OSError, TimeoutError):
                # With the next record; until then it is in memory.
                continue
            for held, copy in zip(new, copies, strict=True):
                held.copy = copy
            await self._drop([held.copy for held in new if held.sent and held.copy is not None])

    async def _drop(self, copies: list[bytes]) -> None:
        if self._redis is None or not copies:
            return
        # A copy that stays is sent once more, which changes nothing.
        with suppress(RedisError, OSError, TimeoutError):
            await self._redis.xdel(STREAM, *copies)

    async def _left_behind(self) -> dict[bytes, dict[str, Any]]:
        if self._redis is None:
            return {}
        try:
            seconds, _ = await self._redis.time()
            old: Any = await self._redis.xrange(STREAM, "-", (seconds - _ADOPT_AFTER_S) * 1000, count=_BATCH)
        except (RedisError, OSError, TimeoutError):
            return {}
        return {copy: json.loads(fields[b"record"]) for copy, fields in old}

    async def _send(self, records: list[dict[str, Any]]) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with self._session.post(
            self._url, json={"records": records}, headers=self._headers, timeout=timeout
        ) as response:
            if response.status == 400:
                # It will not be taken later either, and must not hold up the others.
                log.error("usage refused", extra={"fields": {"records": len(records)}})
                return
            response.raise_for_status()
