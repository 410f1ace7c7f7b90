"""`/api/models/` in front of a manager, and `/api/usage/`: who may what, and what a program is told."""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.core.cache import cache
from django.test import AsyncClient, Client
from pytest_django import DjangoAssertNumQueries

from aiia_platform.accounts.models import ApiKey, User
from aiia_platform.usage.models import UsageRecord
from tests.fakes.manager import HELD, FakeManager
from tests.support import plugin

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

INTERNAL = {"Authorization": "Bearer internal-token-of-the-tests"}


@pytest.fixture
def manager() -> Iterator[FakeManager]:
    with FakeManager(plugin.MANAGER_PORT) as running:
        running.set_model("qwen3-8b")
        running.set_model("llama-1b", "cold")
        running.add_to_catalogue("gemma-3-4b")
        yield running


@pytest.fixture
def queue() -> Iterator[dict[str, Any]]:
    """A gateway that only shows its queues: those in the dictionary that this gives."""
    queues: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"models": queues, "requests": []}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", plugin.GATEWAY_PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield queues
    server.shutdown()
    server.server_close()


@pytest.fixture
def admin(db: None) -> User:
    return User.objects.create_user("root", password="correct horse battery", is_staff=True)


def key_of(user: User) -> dict[str, str]:
    return {"Authorization": f"Bearer {ApiKey.create(user, 'test')[1]}"}


def as_problem(response: Any) -> dict[str, Any]:
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    assert body["title"]
    assert body["detail"]
    return body


def test_everybody_who_is_known_sees_the_models(manager: FakeManager, user: User) -> None:
    browser = Client()
    browser.force_login(user)
    for client, headers in ((Client(), key_of(user)), (Client(), INTERNAL), (browser, {})):
        response = client.get("/api/models/", headers=headers)
        assert response.status_code == 200
        assert [model["id"] for model in response.json()["models"]] == ["qwen3-8b", "llama-1b"]
        assert "secret-of-the-model" not in response.content.decode()


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-wrong"}, {"Authorization": "Bearer wrong"}])
@pytest.mark.parametrize("address", ["/api/models/", "/api/models/qwen3-8b/", "/api/models/catalogue/", "/api/usage/"])
def test_strangers_do_not(manager: FakeManager, headers: dict[str, str], address: str) -> None:
    response = Client().get(address, headers=headers)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    as_problem(response)


def test_a_model_comes_with_its_queue(manager: FakeManager, queue: dict[str, Any], user: User) -> None:
    queue["qwen3-8b"] = {"waiting": 3, "running": 32, "slots": 32, "work_s": 12.5}
    manager.set_model("qwen3-8b-pirate", base="qwen3-8b")
    headers = key_of(user)
    for name in ("qwen3-8b", "qwen3-8b-pirate"):
        model = Client().get(f"/api/models/{name}/", headers=headers).json()
        assert (model["state"], model["queue"]["waiting"], model["max_replicas"]) == ("ready", 3, 1)
    assert Client().get("/api/models/llama-1b/", headers=headers).json()["queue"] is None


def test_an_image_model_comes_with_where_it_is(manager: FakeManager, user: User) -> None:
    manager.set_model("flux", task="image", held=[HELD])
    assert Client().get("/api/models/flux/", headers=key_of(user)).json()["held"] == [HELD]


def test_an_unknown_model_is_answered_with_those_there_are(manager: FakeManager, user: User) -> None:
    response = Client().get("/api/models/nobody/", headers=key_of(user))
    assert response.status_code == 404
    assert "qwen3-8b, llama-1b" in as_problem(response)["detail"]


CHANGES = [
    ("post", "/api/models/llama-1b/load/", None, "POST /models/llama-1b/load", 202),
    ("post", "/api/models/llama-1b/unload/", None, "POST /models/llama-1b/unload", 202),
    ("post", "/api/models/llama-1b/pull/", None, "POST /models/llama-1b/pull", 202),
    (
        "post",
        "/api/models/llama-1b/scale/",
        {"min_replicas": 0, "max_replicas": 2},
        "POST /models/llama-1b/scale",
        202,
    ),
    ("post", "/api/models/catalogue/gemma-3-4b/", None, "POST /catalogue/gemma-3-4b", 201),
    ("put", "/api/models/mine/", {"kind": "Model"}, "PUT /models/mine", 204),
]


@pytest.mark.parametrize(("method", "address", "body", "call", "status"), CHANGES)
def test_administrators_change_models(
    manager: FakeManager, admin: User, user: User, method: str, address: str, body: object, call: str, status: int
) -> None:
    send = getattr(Client(), method)
    response = send(address, body, content_type="application/json", headers=key_of(user))
    assert response.status_code == 403
    assert as_problem(response)["detail"] == "Only administrators may do this."
    assert manager.calls == []
    for headers in (key_of(admin), INTERNAL):
        response = send(address, body, content_type="application/json", headers=headers)
        assert response.status_code in {status, 409}  # what was added cannot be added again
        assert manager.calls[-1][0] == call
        assert manager.calls[-1][1] == (body or "")


def test_an_owners_model_is_removed(manager: FakeManager, admin: User) -> None:
    headers = key_of(admin)
    document = "apiVersion: aiia.dev/v1\nkind: Model\nmetadata: {name: mine}\n"
    response = Client().put("/api/models/mine/", document, content_type="application/yaml", headers=headers)
    assert response.status_code == 204
    assert manager.owned["mine"] == document
    assert Client().delete("/api/models/mine/", headers=headers).status_code == 204
    assert "mine" not in manager.models
    assert Client().delete("/api/models/qwen3-8b/", headers=headers).status_code == 409


def test_a_browser_needs_its_token_to_change(manager: FakeManager, admin: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(admin)
    response = browser.post("/api/models/llama-1b/load/")
    assert response.status_code == 403
    assert "CSRF" in as_problem(response)["detail"]
    program = Client(enforce_csrf_checks=True)
    response = program.post("/api/models/llama-1b/load/", content_type="application/json", headers=INTERNAL)
    assert response.status_code == 202


def test_what_the_manager_refuses_is_passed_on(manager: FakeManager, admin: User) -> None:
    response = Client().post(
        "/api/models/llama-1b/scale/",
        {"min_replicas": 3, "max_replicas": 1},
        content_type="application/json",
        headers=key_of(admin),
    )
    assert response.status_code == 422
    assert as_problem(response)["errors"][0]["field"] == "min_replicas"


def test_names_with_slashes(manager: FakeManager, admin: User) -> None:
    manager.set_model("qwen/qwen3 8b", engine="openai")
    headers = key_of(admin)
    assert Client().get("/api/models/qwen/qwen3 8b/", headers=headers).json()["engine"] == "openai"
    response = Client().post("/api/models/qwen/qwen3 8b/load/", content_type="application/json", headers=headers)
    assert response.status_code == 409
    assert manager.calls[-1][0] == "POST /models/qwen/qwen3 8b/load"


def test_a_body_that_is_no_json_is_refused(manager: FakeManager, admin: User) -> None:
    headers = key_of(admin)
    for kind, status in (("application/json", 400), ("text/plain", 415)):
        response = Client().post("/api/models/llama-1b/scale/", "{", content_type=kind, headers=headers)
        assert response.status_code == status
        as_problem(response)
    assert manager.calls == []


@pytest.mark.parametrize(
    ("method", "address"),
    [("get", "/api/models/"), ("get", "/api/models/catalogue/"), ("post", "/api/models/llama-1b/load/")],
)
def test_without_a_manager_it_is_said_what_to_do(admin: User, method: str, address: str) -> None:
    response = getattr(Client(), method)(address, headers=key_of(admin), content_type="application/json")
    assert response.status_code == 503
    assert "aiia doctor" in as_problem(response)["detail"]


def test_programs_get_no_pages(user: User, settings: Any) -> None:
    settings.DEBUG = False
    response = Client().get("/api/nothing/", headers=key_of(user))
    assert response.status_code == 404
    as_problem(response)
    as_problem(Client().post("/api/models/", headers=key_of(user)))


def test_any_number_of_models_takes_as_many_queries(
    manager: FakeManager, user: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    headers = key_of(user)
    for _ in range(2):
        with django_assert_num_queries(2):  # the key with its user, that it was used
            Client().get("/api/models/", headers=headers)
        for number in range(20):
            manager.set_model(f"model-{number}")


def test_callers_are_limited(manager: FakeManager, user: User, settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "api"}}
    headers = key_of(user)
    assert Client().get("/api/models/", headers=headers).status_code == 200
    # As if 600 had come within this minute.
    cache.set(f"throttle_user_{user.pk}", [time.time()] * 600)
    response = Client().get("/api/models/", headers=headers)
    assert response.status_code == 429
    assert int(response["Retry-After"]) <= 60
    as_problem(response)
    assert Client().get("/api/models/", headers=INTERNAL).status_code == 200


async def lines(response: Any) -> AsyncIterator[str]:
    async for chunk in response.streaming_content:
        for line in chunk.decode().splitlines():
            yield line


async def next_events(stream: AsyncIterator[str], count: int) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    number = ""
    async with asyncio.timeout(20):
        async for line in stream:
            if line.startswith("id: "):
                number = line[4:]
            elif line.startswith("data: "):
                found.append((number, json.loads(line[6:])))
                if len(found) == count:
                    break
    return found


@pytest.mark.django_db(transaction=True)
async def test_events_are_followed_and_resumed(manager: FakeManager, user: User) -> None:
    client = AsyncClient()
    await client.aforce_login(user)
    response: Any = await client.get("/api/models/events/")
    assert response["Content-Type"].startswith("text/event-stream")
    stream = lines(response)
    first = await next_events(stream, 2)
    assert [(event["model"], event["state"]) for _, event in first] == [("qwen3-8b", "ready"), ("llama-1b", "cold")]
    await asyncio.to_thread(manager.set_model, "llama-1b", "starting")
    number, event = (await next_events(stream, 1))[0]
    assert (event["model"], event["state"], event["previous"]) == ("llama-1b", "starting", "cold")
    await stream.aclose()  # type: ignore[attr-defined]
    known: Any = await client.get("/api/models/events/", headers={"Accept": "application/json"})
    assert known.json()["last"] == int(number)

    again: Any = await client.get("/api/models/events/", headers={"Last-Event-ID": first[0][0]})
    assert [found for found, _ in await next_events(lines(again), 2)] == [first[1][0], number]


@pytest.mark.django_db(transaction=True)
async def test_followers_outlive_a_manager(user: User) -> None:
    client = AsyncClient()
    await client.aforce_login(user)
    assert (await client.get("/api/models/events/")).status_code == 503
    with FakeManager(plugin.MANAGER_PORT) as manager:
        manager.set_model("qwen3-8b")
        response: Any = await client.get("/api/models/events/")
        stream = lines(response)
        await next_events(stream, 1)
    with FakeManager(plugin.MANAGER_PORT) as manager:
        # It counts from one again, and its first event has a number that was seen before.
        manager.set_model("llama-1b", "failed", reason="Out of memory")
        manager.set_model("llama-1b", "ready")
        assert (await next_events(stream, 1))[0][1]["model"] == "llama-1b"


async def test_events_are_not_for_strangers(db: None) -> None:
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}):
        assert (await AsyncClient().get("/api/models/events/", headers=headers)).status_code == 401


def used(user: User | None, model: str, day: int, **fields: object) -> None:
    UsageRecord.objects.create(
        request_id=uuid.uuid4().hex,
        user=user,
        model=model,
        kind="chat",
        work_class="api",
        outcome="complete",
        started_at=datetime(2026, 11, day, 12, tzinfo=UTC),
        **fields,
    )


def test_everybody_sees_what_they_used(
    user: User, admin: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    used(user, "qwen3-8b", 23, prompt_tokens=10, completion_tokens=5)
    used(user, "qwen3-8b", 24, prompt_tokens=1, completion_tokens=2)
    used(user, "qwen3-8b", 24, prompt_tokens=10, completion_tokens=20)
    used(user, "llama-1b", 24, gpu_ms=100)
    used(admin, "qwen3-8b", 24, prompt_tokens=1000)
    own, others = key_of(user), key_of(admin)
    with django_assert_num_queries(4):  # two for the key, count and page
        page = Client().get("/api/usage/", headers=own).json()
    assert page["count"] == 3
    assert [(row["day"], row["model"], row["requests"], row["prompt_tokens"]) for row in page["results"]] == [
        ("2026-11-24", "llama-1b", 1, 0),
        ("2026-11-24", "qwen3-8b", 2, 11),
        ("2026-11-23", "qwen3-8b", 1, 10),
    ]
    first = Client().get("/api/usage/?page_size=1&to=2026-11-23", headers=own).json()
    assert (first["count"], first["results"][0]["completion_tokens"]) == (1, 5)
    assert Client().get("/api/usage/?user=all&from=2026-11-24", headers=own).status_code == 403
    everything = Client().get("/api/usage/?user=all&from=2026-11-24", headers=others).json()
    assert [row["prompt_tokens"] for row in everything["results"]] == [0, 1011]
    assert Client().get(f"/api/usage/?user={user.pk}", headers=others).json()["count"] == 3


@pytest.mark.parametrize("query", ["from=yesterday", "user=ada"])
def test_a_question_about_usage_that_makes_no_sense(admin: User, query: str) -> None:
    response = Client().get(f"/api/usage/?{query}", headers=key_of(admin))
    assert response.status_code == 400
    assert as_problem(response)["errors"][0]["field"] == query.partition("=")[0]
