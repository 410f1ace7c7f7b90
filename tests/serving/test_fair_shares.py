"""Three users who always want more, tokens and images mixed, through a real gateway: equal shares of what it costs."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.fakes import FakeUpstream
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess, free_port
from tests.support.services import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

USERS = ("ada", "ben", "cleo")
#: Requests that each keeps open at each of the models.
OPEN = 6
#: What is served before the shares are looked at: many times the largest request, as it is charged at first. Who comes
#: while ben's first one counts as its 2,000 tokens starts behind it, by 4,035; that stays, and is the contract's bound.
ENOUGH = {"painter": 24_000.0, "writer": 120_000.0}
#: The fake charges by steps alone. The gateway's guess goes by pixels, so one's guess is far too high, another's too
#: low, and the truth has to correct both. The same for answers that end long before the tokens they were allowed.
IMAGES: dict[str, list[dict[str, Any]]] = {
    "ada": [{"size": "64x64", "steps": 2}, {"size": "64x64", "steps": 9}],
    "ben": [{"size": "256x256", "steps": 3}],
    "cleo": [{"size": "128x64", "steps": 4, "n": 2}, {"size": "64x64", "steps": 12, "n": 1}],
}
TOKENS = {"ada": [4, 40], "ben": [2000], "cleo": [12, 25, 500]}


@dataclass
class Served:
    """What each user was served of each model, in its unit, while all of them wanted more."""

    by_user: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))

    def add(self, model: str, user: str, cost: float) -> None:
        if not self.enough(model):
            self.by_user[model][user] += cost

    def enough(self, model: str) -> bool:
        return sum(self.by_user[model].values()) >= ENOUGH[model]

    def shares(self, model: str) -> dict[str, float]:
        total = sum(self.by_user[model].values())
        return {user: self.by_user[model][user] / total for user in USERS}


@pytest.fixture
def gateway() -> Iterator[GatewayProcess]:
    with (
        RedisServer(free_port()) as redis,
        FakeControl() as control,
        FakeUpstream(models=["painter", "writer"], tokens=48, step_s=0.002) as replica,
    ):
        common = {"max_in_flight": 2, "exact_continuation": False}
        control.set_model(
            "painter", replica.base_url, task="image", engine="diffusers", capabilities=["images"], **common
        )
        control.set_model("writer", replica.base_url, capabilities=["chat"], **common)
        for user in USERS:
            control.add_key(f"sk-{user}", user)
        with GatewayProcess(control.url, REDIS_URL=redis.url) as gateway:
            yield gateway


async def test_shares_are_equal_whatever_was_guessed(gateway: GatewayProcess) -> None:
    served = Served()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for user in USERS:
            for _ in range(OPEN):
                tasks.create_task(keep_drawing(session, gateway.base_url, user, served))
                tasks.create_task(keep_writing(session, gateway.base_url, user, served))
    for model in ENOUGH:
        shares = served.shares(model)
        assert shares == pytest.approx(dict.fromkeys(USERS, 1 / 3), rel=0.1), (model, shares)


async def keep_drawing(session: aiohttp.ClientSession, base_url: str, user: str, served: Served) -> None:
    for wanted in itertools.cycle(IMAGES[user]):
        if served.enough("painter"):
            return
        answer = await ask(
            session, f"{base_url}/images/generations", user, {"model": "painter", "prompt": "a", **wanted}
        )
        served.add("painter", user, answer["usage"]["gpu_ms"])


async def keep_writing(session: aiohttp.ClientSession, base_url: str, user: str, served: Served) -> None:
    for most in itertools.cycle(TOKENS[user]):
        if served.enough("writer"):
            return
        messages = [{"role": "user", "content": "Write."}]
        body = {"model": "writer", "messages": messages, "max_tokens": most}
        usage = (await ask(session, f"{base_url}/chat/completions", user, body))["usage"]
        served.add("writer", user, usage["prompt_tokens"] + 2 * usage["completion_tokens"])


async def ask(session: aiohttp.ClientSession, url: str, user: str, body: dict[str, Any]) -> Any:
    async with session.post(url, json=body, headers={"Authorization": f"Bearer sk-{user}"}) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()
