"""Usage on its way to the platform: each request exactly once, whatever fails in between.

A record goes into a Redis stream first and is taken out when the platform has stored it. It may be sent twice, by two
gateways or after a lost answer; the platform keeps one record per request id. Without Redis it waits in memory.
"""

import asyncio
import json
import logging
from typing import Any

import aiohttp
import redis.asyncio as redis
from redis.exceptions import RedisError, ResponseError

from aiia_serving.gateway.usage import Kind, Outcome, Usage
from aiia_serving.queue import Work

log = logging.getLogger(__name__)

STREAM = "aiia:usage"
_GROUP = "gateways"
_BATCH = 200
_RETRY_S = 1.0
# A record that another gateway took and has not finished within this time (ms) is taken over.
_ADOPT_AFTER_MS = 30_000
_TIMEOUT_S = 10
# Of records that neither Redis nor the platform takes; a day of one busy gateway.
_MAX_HELD = 100_000


class Meter:
    """Takes records without waiting, and delivers them for as long as it is open."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        platform_url: str,
        internal_token: str | None,
        redis_url: str,
        gateway_id: str,
    ) -> None:
        self._session = session
        self._url = platform_url.rstrip("/") + "/internal/usage"
        self._headers = {"Authorization": f"Bearer {internal_token}"}
        self._name = gateway_id
        self._redis = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=5) if redis_url else None
        self._held: list[dict[str, Any]] = []
        self._wake = asyncio.Event()
        self._has_group = False
        self._closing = False
        self._task = asyncio.create_task(self._deliver())

    def record(self, usage: Usage, outcome: Outcome) -> None:
        self._hold(usage.record(outcome))

    def abandoned(self, work: Work, cost: float) -> None:
        """Records a request whose gateway died, by what the queue knew of it."""
        kind: Kind = "images" if work.unit == "gpu_ms" else "chat"
        usage = Usage(work.id, work.user, None, work.model, work.work_class, kind)
        if work.unit == "gpu_ms":
            usage.gpu_ms = round(cost)
        else:
            usage.completion_tokens = round(cost / 2)
        usage.admit()
        self.record(usage, "lost")

    async def close(self) -> None:
        """Tries once more to hand on what is held, then ends."""
        self._closing = True
        self._wake.set()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._task
        except TimeoutError:
            log.error("usage records lost", extra={"fields": {"records": len(self._held)}})
        if self._redis is not None:
            await self._redis.aclose()

    def _hold(self, record: dict[str, Any]) -> None:
        if len(self._held) < _MAX_HELD:
            self._held.append(record)
        self._wake.set()

    async def _deliver(self) -> None:
        while True:
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
        if self._redis is not None:
            try:
                await self._put_into_redis(self._redis)
                return await self._send_from_redis(self._redis)
            except (RedisError, OSError, TimeoutError):
                self._has_group = False
        if not self._held:
            return False
        batch = self._held[:_BATCH]
        await self._send(batch)
        del self._held[: len(batch)]
        return True

    async def _put_into_redis(self, client: redis.Redis) -> None:
        while self._held:
            batch = self._held[:_BATCH]
            async with client.pipeline(transaction=True) as pipe:
                for record in batch:
                    pipe.xadd(STREAM, {"record": json.dumps(record)})
                await pipe.execute()
            del self._held[: len(batch)]

    async def _send_from_redis(self, client: redis.Redis) -> bool:
        if not self._has_group:
            try:
                await client.xgroup_create(STREAM, _GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            self._has_group = True
        # What this gateway took before and could not send, then what a dead one took, then what is new.
        entries = await self._read(client, "0")
        if not entries:
            adopted: Any = await client.xautoclaim(STREAM, _GROUP, self._name, _ADOPT_AFTER_MS, count=_BATCH)
            entries = adopted[1]
        if not entries:
            entries = await self._read(client, ">")
        if not entries:
            return False
        ids = [entry_id for entry_id, _ in entries]
        await self._send([json.loads(fields[b"record"]) for _, fields in entries if fields])
        async with client.pipeline(transaction=True) as pipe:
            pipe.xack(STREAM, _GROUP, *ids)
            pipe.xdel(STREAM, *ids)
            await pipe.execute()
        return True

    async def _read(self, client: redis.Redis, after: str) -> Any:
        answer: Any = await client.xreadgroup(_GROUP, self._name, {STREAM: after}, count=_BATCH)
        return answer[0][1] if answer else []

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
