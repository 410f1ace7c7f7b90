"""Who calls: another role with the internal token, or a user with a key that the platform knows."""

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import aiohttp

from aiia_serving.gateway import metrics
from aiia_serving.gateway.errors import ApiError, unauthorized, unavailable
from aiia_serving.queue import WorkClass

_MAX_CACHED_KEYS = 10_000


@dataclass(frozen=True)
class Caller:
    """``user`` is whom the work counts for; ``events`` whether status events are wanted; ``internal`` another role.

    ``request_id`` is the one that another role has given to the request.
    """

    user: str
    work_class: WorkClass
    key_id: str | None = None
    events: bool = False
    internal: bool = False
    request_id: str | None = None


class Authenticator:
    """Turns headers into a ``Caller``; asks the platform about keys at most once per cache time."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        platform_url: str,
        internal_token: str | None,
        key_ttl_s: float,
        unknown_key_ttl_s: float,
    ) -> None:
        self._session = session
        self._verify_url = platform_url.rstrip("/") + "/internal/keys/verify"
        self._internal_token = internal_token
        self._key_ttl_s = key_ttl_s
        self._unknown_key_ttl_s = unknown_key_ttl_s
        # From a key's sha256 to (good until, caller or None for an unknown key), the oldest answer first.
        self._cache: OrderedDict[str, tuple[float, Caller | None]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Caller | None]] = {}

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """The caller behind lower-case ``headers``. Raises ``ApiError`` 401, or 503 when the platform is not there."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        # Anthropic's clients send the key in a header of its own.
        token = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
        if not token:
            raise unauthorized("You didn't provide an API key. Send it as 'Authorization: Bearer sk-…' or 'x-api-key'.")
        if self._internal_token and hmac.compare_digest(token.encode(), self._internal_token.encode()):
            return _internal_caller(headers)
        if not token.startswith("sk-"):
            raise unauthorized("Incorrect API key provided. Keys of this server begin with 'sk-'.")
        caller = await self._verified(hashlib.sha256(token.encode()).hexdigest())
        if caller is None:
            raise unauthorized("Incorrect API key provided, or it was revoked.")
        return caller

    def forget(self, digest: str) -> None:
        """Drops what is known of the key with this sha256, so that the platform is asked again."""
        self._cache.pop(digest, None)
        # An answer that is on its way may be from before.
        self._asking.pop(digest, None)

    async def _verified(self, digest: str) -> Caller | None:
        cached = self._cache.get(digest)
        hit = cached is not None and cached[0] > time.monotonic()
        metrics.key_checks.labels("hit" if hit else "miss").inc()
        if cached is not None and hit:
            return cached[1]
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest))
            asking.add_done_callback(lambda asked: self._asked(digest, asked))
        # Shielded, because other requests with the same key wait for the same answer.
        return await asyncio.shield(asking)

    def _asked(self, digest: str, asked: asyncio.Task[Caller | None]) -> None:
        if self._asking.get(digest) is asked:
            del self._asking[digest]

    async def _ask(self, digest: str) -> Caller | None:
        headers = {"Authorization": f"Bearer {self._internal_token}"}
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with self._session.post(
                self._verify_url, json={"key_sha256": digest}, headers=headers, timeout=timeout
            ) as response:
                if response.status == 404:
                    return self._keep(digest, None, self._unknown_key_ttl_s)
                if response.status != 200:
                    raise _cannot_check(f"status {response.status}")
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _cannot_check(type(error).__name__) from error
        if refusal := answer.get("refusal"):
            # Not kept, so that a share that grows or a new day is seen at once.
            raise _refused(refusal)
        caller = Caller(user=str(answer["user_id"]), work_class="api", key_id=str(answer["key_id"]))
        return self._keep(digest, caller, self._key_ttl_s)

    def _keep(self, digest: str, caller: Caller | None, ttl_s: float) -> Caller | None:
        if self._asking.get(digest) is not asyncio.current_task():
            return caller
        self._cache[digest] = (time.monotonic() + ttl_s, caller)
        self._cache.move_to_end(digest)
        while len(self._cache) > _MAX_CACHED_KEYS:
            self._cache.popitem(last=False)
        return caller


def _internal_caller(headers: Mapping[str, str]) -> Caller:
    work_class = headers.get("x-aiia-class", "interactive")
    if work_class not in get_args(WorkClass):
        raise ApiError(400, f"X-Aiia-Class must be one of {', '.join(get_args(WorkClass))}.", param="X-Aiia-Class")
    return Caller(
        user=headers.get("x-aiia-user", "internal"),
        work_class=work_class,  # type: ignore[arg-type]  # checked above
        events=headers.get("x-aiia-events") == "1",
        internal=True,
        request_id=headers.get("x-request-id"),
    )


def _refused(refusal: Mapping[str, Any]) -> ApiError:
    """A key that is good and may not use models now, in the platform's words."""
    status = int(refusal["status"])
    return ApiError(
        status,
        str(refusal["detail"]),
        code="insufficient_quota" if status == 429 else "forbidden",
        kind="insufficient_quota" if status == 429 else "invalid_request_error",
        retry_after_s=refusal.get("retry_after"),
    )


def _cannot_check(why: str) -> ApiError:
    return unavailable(f"API keys cannot be checked at the moment ({why}).", code="key_check_failed", retry_after_s=2)
