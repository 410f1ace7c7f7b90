"""The gateway's check of keys against a platform that answers when the test says so."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from aiia_serving.gateway.auth import Authenticator
from aiia_serving.gateway.errors import ApiError

pytestmark = pytest.mark.integration

KEY = "sk-test-of-alice"
HEADERS = {"authorization": f"Bearer {KEY}"}


class Platform:
    """Knows the key until ``revoked``; each question is in ``asked``, and answered with what was true then."""

    def __init__(self) -> None:
        self.revoked = False
        self.asked: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def verify(self, _: web.Request) -> web.Response:
        revoked, answer = self.revoked, asyncio.Event()
        self.asked.put_nowait(answer)
        await answer.wait()
        return web.json_response({} if revoked else {"user_id": 1, "key_id": 1}, status=404 if revoked else 200)


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
async def authenticator(platform: Platform) -> AsyncIterator[Authenticator]:
    app = web.Application()
    app.add_routes([web.post("/internal/keys/verify", platform.verify)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with aiohttp.ClientSession() as session:
        yield Authenticator(session, f"http://{host}:{port}", "token", 60, 60)
    await runner.cleanup()


async def test_an_answer_from_before_a_revocation_is_not_kept(authenticator: Authenticator, platform: Platform) -> None:
    first = asyncio.create_task(authenticator.caller(HEADERS))
    answer_first = await platform.asked.get()
    platform.revoked = True
    authenticator.forget(hashlib.sha256(KEY.encode()).hexdigest())
    second = asyncio.create_task(authenticator.caller(HEADERS))
    (await asyncio.wait_for(platform.asked.get(), 10)).set()
    with pytest.raises(ApiError, match="revoked"):
        await second
    answer_first.set()
    # It had come before.
    assert (await first).user == "1"
    with pytest.raises(ApiError, match="revoked"):
        await asyncio.wait_for(authenticator.caller(HEADERS), 10)


async def test_requests_at_once_ask_once_and_the_answer_is_kept(
    authenticator: Authenticator, platform: Platform
) -> None:
    callers = [asyncio.create_task(authenticator.caller(HEADERS)) for _ in range(3)]
    (await platform.asked.get()).set()
    assert {(await caller).user for caller in callers} == {"1"}
    assert (await authenticator.caller(HEADERS)).user == "1"
    assert platform.asked.empty()
