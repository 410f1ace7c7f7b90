"""Every request is counted once: whole, refused, left by its caller, and whatever dies in between."""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import redis as redis_client

from tests.fakes import FakeUpstream
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess, free_port
from tests.support.services import RedisServer

pytestmark = pytest.mark.integration

HI: Any = [{"role": "user", "content": "hi"}]
KEY = "sk-metered"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(free_port()) as server:
        yield server


@pytest.fixture
def metered(control: FakeControl, redis: RedisServer) -> Iterator[GatewayProcess]:
    control.add_key(KEY, "meg")
    with GatewayProcess(control.url, REDIS_URL=redis.url) as gateway:
        control.forget_usage()
        yield gateway


@pytest.fixture
def client(metered: GatewayProcess, upstream: FakeUpstream) -> openai.OpenAI:
    return openai.OpenAI(base_url=metered.base_url, api_key=KEY, max_retries=0)


def one(records: list[dict[str, Any]]) -> bool:
    return len(records) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_whole_answer(client: openai.OpenAI, control: FakeControl, stream: bool) -> None:
    answer: Any = client.chat.completions.create(model="fake", messages=HI, stream=stream)
    if stream:
        assert all(chunk.choices for chunk in answer), "usage was not asked for"
    (record,) = control.wait_usage(one)
    assert record["user_id"] == "meg"
    assert record["key_id"] == "id-of-meg"
    assert (record["kind"], record["class"], record["outcome"]) == ("chat", "api", "complete")
    # The model counts its end-of-text token too.
    assert record["completion_tokens"] == 33
    assert record["prompt_tokens"] > 0
    assert record["first_token_ms"] is not None


def test_a_caller_that_leaves(client: openai.OpenAI, control: FakeControl, upstream: FakeUpstream) -> None:
    upstream.control(tokens_per_second=50, tokens=1000)
    stream = client.chat.completions.create(model="fake", messages=HI, stream=True)
    for _ in range(5):
        next(stream)
    stream.close()
    (record,) = control.wait_usage(one)
    assert record["outcome"] == "cancelled"
    assert 4 <= record["completion_tokens"] < 900
    assert record["prompt_tokens"] > 0


def test_a_failure(client: openai.OpenAI, control: FakeControl, upstream: FakeUpstream) -> None:
    upstream.control(fault="status", fault_status=400)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="fake", messages=HI)
    (record,) = control.wait_usage(one)
    assert (record["outcome"], record["completion_tokens"]) == ("failed", 0)


def test_redis_away(client: openai.OpenAI, control: FakeControl, redis: RedisServer) -> None:
    redis.kill()
    try:
        client.chat.completions.create(model="fake", messages=HI)
        assert control.wait_usage(one)
    finally:
        redis.start()


def test_a_gateway_that_is_killed(
    metered: GatewayProcess, control: FakeControl, upstream: FakeUpstream, redis: RedisServer
) -> None:
    upstream.control(tokens_per_second=50, tokens=10_000)
    body = {"model": "fake", "prompt": "Hi", "stream": True}
    with (
        GatewayProcess(control.url, REDIS_URL=redis.url) as killed,
        httpx.stream(
            "POST", f"{killed.base_url}/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}
        ) as answer,
    ):
        # Kept, because an iterator that is thrown away closes the response: the caller would have left.
        pieces = answer.iter_bytes()
        next(pieces)
        killed.kill()
    (record,) = control.wait_usage(lambda records: any(record["outcome"] == "lost" for record in records), timeout=60)
    assert (record["user_id"], record["model"], record["kind"]) == ("meg", "fake", "completions")
    assert record["key_id"] == "id-of-meg"


def test_a_revoked_key_stops_at_once(client: openai.OpenAI, control: FakeControl, redis: RedisServer) -> None:
    client.chat.completions.create(model="fake", messages=HI)
    control.revoke_key(KEY)
    publisher = redis_client.Redis.from_url(redis.url)
    assert publisher.publish("aiia:keys:revoked", hashlib.sha256(KEY.encode()).hexdigest()) == 1
    publisher.close()
    # The cache would have kept it for seconds; the message is on its way to the gateway over loopback.
    for _ in range(20):
        try:
            client.models.list()
        except openai.AuthenticationError:
            return
    raise AssertionError("the key still works")
