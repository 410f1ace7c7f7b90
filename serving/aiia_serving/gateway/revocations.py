"""Keys that the platform revokes are forgotten at once, by a message on Redis; without it they live to their TTL."""

import asyncio
import logging
from collections.abc import Callable

import redis.asyncio as redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

CHANNEL = "aiia:keys:revoked"
_RETRY_S = 1.0


class Revocations:
    """Listens until ``close`` and calls ``forget`` with the sha256 (hex) of each revoked key."""

    def __init__(self, redis_url: str, forget: Callable[[str], None]) -> None:
        self._forget = forget
        self._task = asyncio.create_task(self._listen(redis_url)) if redis_url else None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self, redis_url: str) -> None:
        client = redis.Redis.from_url(redis_url, socket_connect_timeout=2, health_check_interval=15)
        try:
            while True:
                try:
                    async with client.pubsub(ignore_subscribe_messages=True) as channel:
                        await channel.subscribe(CHANNEL)
                        async for message in channel.listen():
                            self._forget(message["data"].decode())
                except (RedisError, OSError) as error:
                    log.warning("no word of revoked keys", extra={"fields": {"error": type(error).__name__}})
                await asyncio.sleep(_RETRY_S)
        finally:
            await client.aclose()
