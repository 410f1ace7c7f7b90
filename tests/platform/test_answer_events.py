"""The events of an answer, as a program follows them. Real worker, gateway and Redis, a fake model server."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
import redis.asyncio as redis
from asgiref.sync import sync_to_async
from django.test import AsyncClient

from aiia_platform.accounts.models import ApiKey, Scope, User
from aiia_platform.generations import live
from aiia_platform.generations.models import Generation
from tests.fakes.answers import answer_text
from tests.support.services import RedisServer
from tests.support.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]
Send = Callable[..., Generation]
LENGTH = 120


@pytest.fixture
def stack(transactional_db: None, redis_server: RedisServer) -> Iterator[Stack]:
    with Stack(redis_server, tokens=LENGTH, tokens_per_second=80) as stack:
        stack.start_worker()
        yield stack


@pytest.fixture
def answer(transactional_db: None, send: Send) -> Generation:
    return send()


@pytest.fixture
def key(answer: Generation) -> str:
    return ApiKey.create(User.objects.get(), "laptop")[1]


def _address(answer: Generation) -> str:
    return f"/api/chats/{answer.message.chat_id}/messages/{answer.message_id}/events/"


async def _events(answer: Generation, key: str, last: str = "") -> AsyncGenerator[tuple[str, Any, str]]:
    """Each event: its type, its data, its id."""
    headers = {"Authorization": f"Bearer {key}"} | ({"Last-Event-ID": last} if last else {})
    response: Any = await AsyncClient().get(_address(answer), headers=headers)
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/event-stream")
    async with aclosing(response.streaming_content) as parts:
        async for part in parts:
            for frame in part.decode().split("\n\n"):
                fields = dict(line.split(": ", 1) for line in frame.split("\n") if not line.startswith(":") and line)
                if "event" in fields:
                    yield fields["event"], json.loads(fields["data"]), fields.get("id", "")


async def test_redis_lets_go_of_an_answer_soon_after_its_end(stack: Stack, answer: Generation, key: str) -> None:
    events = _events(answer, key)
    assert await anext(events)
    async with redis.Redis.from_url(stack.redis.url) as client:
        name = f"aiia:generation:{answer.pk}"
        async with asyncio.timeout(30):
            while await client.ttl(name) < 0:
                await anext(events)
        assert await client.ttl(name) > live.KEEP_ENDED
        _ = [event async for event in events]
        tail = live.Tail(answer.pk)
        while not any(entry["type"] == "end" for entry in await tail.read(live.QUIET) or ()):
            pass
        await tail.close()
        assert 0 < await client.ttl(name) <= live.KEEP_ENDED


async def test_an_answer_is_followed_from_the_queue_to_its_end(stack: Stack, answer: Generation, key: str) -> None:
    text, phases, end = "", [], {}
    async for kind, data, _ in _events(answer, key):
        if kind == "text":
            text = text[: data["at"]] + data["text"]
        elif kind == "status":
            phases.append(data["phase"])
        elif kind == "end":
            end = data
    assert text == answer_text(LENGTH)
    assert {"queued", "writing"} <= set(phases)
    assert end["state"] == "done"
    assert end["usage"] == {
        "prompt_tokens": end["usage"]["prompt_tokens"],
        "completion_tokens": LENGTH + 1,
        "cost": None,
    }
    assert end["duration_s"] > 0


async def test_a_reader_that_comes_back_loses_nothing_and_gets_nothing_twice(
    stack: Stack, answer: Generation, key: str
) -> None:
    text, last, ended = "", "", False
    for _ in range(100):
        read = 0
        async with aclosing(_events(answer, key, last)) as events:
            async for kind, data, place in events:
                last = place or last
                if kind == "text":
                    assert data["at"] == len(text)
                    text += data["text"]
                    read += 1
                ended = kind == "end"
                if ended or read == 2:
                    break
        if ended:
            break
    assert text == answer_text(LENGTH)
    # Who knows it all is told the end at once, and nothing else.
    assert [kind for kind, _, _ in [event async for event in _events(answer, key, last)] if kind != "status"] == ["end"]


async def test_a_reader_of_another_text_gets_this_one_from_its_beginning(answer: Generation, key: str) -> None:
    def finish() -> None:
        answer.message.text = "Paris."
        answer.message.save(update_fields=["text"])
        Generation.objects.filter(pk=answer.pk).update(state="failed", error="Out of memory", advice="Try again")

    await sync_to_async(finish)()
    found = [event async for event in _events(answer, key, "1.4.0.abcdef")]
    assert ("text", {"at": 0, "text": "Paris."}) in [event[:2] for event in found]
    kind, end, _ = found[-1]
    assert (kind, end["state"], end["error"], end["advice"]) == ("end", "failed", "Out of memory", "Try again")


async def test_strangers_and_keys_that_may_not_read_are_refused(answer: Generation, key: str) -> None:
    def keys() -> tuple[str, str]:
        other = User.objects.create_user("eve", "eve@example.org", "correct horse battery")
        writer = ApiKey.create(User.objects.get(username="ada"), "writer", scopes=[Scope.WRITE])[1]
        return ApiKey.create(other, "laptop")[1], writer

    other, writer = await sync_to_async(keys)()
    chat, question = answer.message.chat_id, answer.message.parent_id
    addresses = {
        (_address(answer), other): 404,
        (_address(answer), writer): 403,
        (_address(answer), "sk-wrong"): 401,
        (f"/api/chats/{chat}/messages/{question}/events/", key): 404,
        (f"/api/chats/{uuid.uuid4()}/messages/{answer.message_id}/events/", key): 404,
    }
    for (address, token), status in addresses.items():
        response = await AsyncClient().get(address, headers={"Authorization": f"Bearer {token}"})
        assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json")
    assert (await AsyncClient().get(_address(answer))).status_code == 401
