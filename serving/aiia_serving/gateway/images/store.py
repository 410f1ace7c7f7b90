"""Images behind signed links that expire: in Redis, where all gateways find them. Without one, and while it is away,
in this gateway's memory."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from typing import cast

import redis.asyncio as redis
from redis.exceptions import RedisError

from aiia_serving.gateway.errors import ApiError, unavailable

PATH = "/v1/images/files/"
_KEY = "aiia:image:"
_MOST_BYTES = 256_000_000
_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class ImageStore:
    """``secret`` signs the links; gateways that share it and a Redis answer for each other's."""

    def __init__(self, redis_url: str, secret: str | None, ttl_s: int) -> None:
        self._redis = (
            redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=10) if redis_url else None
        )
        self._secret = hashlib.sha256(b"aiia images\0" + (secret or secrets.token_hex()).encode()).digest()
        self._ttl_s = ttl_s
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    async def keep(self, image: bytes, kind: str) -> str:
        """The link's path and query."""
        name = f"{secrets.token_hex(16)}.{kind}"
        expires = int(time.time()) + self._ttl_s
        try:
            if self._redis is None:
                self._hold(name, image)
            else:
                await self._redis.set(_KEY + name, image, ex=self._ttl_s)
        except (RedisError, OSError):
            self._hold(name, image)
        return f"{PATH}{name}?expires={expires}&signature={self._signature(name, expires)}"

    async def open(self, name: str, expires: str, signature: str) -> tuple[bytes, str]:
        """The image and its type. Raises ``ApiError`` 403 or 404; the reason does not tell whether an image exists."""
        good = expires.isascii() and expires.isdigit() and len(expires) < 15
        if not good or not hmac.compare_digest(self._signature(name, int(expires)).encode(), signature.encode()):
            raise ApiError(403, "This link's signature is wrong.", code="invalid_signature")
        if int(expires) < time.time():
            raise ApiError(403, "This link has expired.", code="link_expired")
        image = self._held.get(name)
        if image is None and self._redis is not None:
            image = await self._from(self._redis, name)
        if image is None:
            raise ApiError(404, "This image is not kept any more.", code="image_gone")
        return image, _TYPES[name.rpartition(".")[2]]

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    def _hold(self, name: str, image: bytes) -> None:
        self._held[name] = image
        self._bytes += len(image)
        while self._bytes > _MOST_BYTES:
            self._bytes -= len(self._held.popitem(last=False)[1])

    async def _from(self, server: "redis.Redis", name: str) -> bytes | None:
        try:
            return cast(bytes | None, await server.get(_KEY + name))
        except (RedisError, OSError) as error:
            raise unavailable("Images cannot be read at the moment.", code="image_store_unavailable") from error

    def _signature(self, name: str, expires: int) -> str:
        return hmac.new(self._secret, f"{name}\0{expires}".encode(), hashlib.sha256).hexdigest()
