"""`/api/chats/`, `/api/search/` and `/api/llm/` as a program uses them."""

import uuid
from typing import Any

import pytest
from rest_framework.test import APIClient  # type: ignore[import-untyped]

from aiia_platform.accounts.models import ApiKey, User
from aiia_platform.chats.models import Chat, Message
from aiia_platform.generations.models import Generation

pytestmark = [pytest.mark.integration, pytest.mark.django_db, pytest.mark.usefixtures("no_jobs")]


@pytest.fixture
def api(user: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {ApiKey.create(user, 'laptop')[1]}")
    return client


def _ask(api: APIClient, chat: str, text: str = "Hello", **more: Any) -> Any:
    return api.post(f"/api/chats/{chat}/messages/", {"model": "fake", "text": text, **more}, format="json")


def _finish(text: str = "Answer") -> None:
    active = Generation.objects.active()
    Message.objects.filter(generation__in=active).update(text=text)
    active.update(state="done")


def test_a_chat_from_its_beginning_to_its_end(api: APIClient) -> None:
    made = api.post("/api/chats/", {"system_prompt": "Be brief", "params": {"temperature": 0.2}}, format="json")
    assert made.status_code == 201
    chat = made.data["id"]
    answer = _ask(api, chat, "Three days in Rome?")
    assert answer.status_code == 201
    assert answer.data["generation"]["params"] == {"temperature": 0.2}
    assert answer.data["generation"]["state"] == "queued"
    assert _ask(api, chat, "And now?").status_code == 409
    _finish("The Forum")
    shown = api.get(f"/api/chats/{chat}/").data
    assert shown["title"] == "Three days in Rome?"
    assert [m["text"] for m in shown["messages"]] == ["Three days in Rome?", "The Forum"]
    again = api.post(f"/api/chats/{chat}/generate/", {"model": "other"}, format="json")
    assert again.data["parent"] == shown["messages"][0]["id"]
    assert api.post(f"/api/chats/{chat}/cancel/").status_code == 204
    assert api.get(f"/api/chats/{chat}/messages/{again.data['id']}/").data["generation"]["state"] == "stopped"
    fork = api.post(f"/api/chats/{chat}/fork/", {"message": answer.data["id"]}, format="json")
    assert fork.status_code == 201
    assert api.get("/api/chats/").data["count"] == 2
    assert api.post(f"/api/chats/{chat}/duplicate/").status_code == 201
    assert api.delete(f"/api/chats/{chat}/").status_code == 204
    assert api.get(f"/api/chats/{chat}/").status_code == 404
    assert api.get("/api/chats/?q=rome").data["count"] == 2


def test_a_repeated_request_changes_nothing(api: APIClient) -> None:
    key = {"HTTP_IDEMPOTENCY_KEY": "one"}
    chats = [api.post("/api/chats/", {}, format="json", **key).data["id"] for _ in range(2)]
    assert chats[0] == chats[1]
    form = {"model": "fake", "text": "Hello"}
    answers = [api.post(f"/api/chats/{chats[0]}/messages/", form, format="json", **key).data["id"] for _ in range(2)]
    assert answers[0] == answers[1]
    assert Message.objects.count() == 2


def test_nothing_is_overwritten_unseen(api: APIClient) -> None:
    made = api.post("/api/chats/", {"title": "Rome"}, format="json")
    address, seen = f"/api/chats/{made.data['id']}/", made["ETag"]
    first = api.patch(address, {"title": "Paris"}, format="json", HTTP_IF_MATCH=seen)
    assert (first.status_code, first.data["title"]) == (200, "Paris")
    assert api.patch(address, {"title": "Oslo"}, format="json", HTTP_IF_MATCH=seen).status_code == 412
    answer = _ask(api, made.data["id"]).data["id"]
    _finish()
    message = f"{address}messages/{answer}/"
    assert api.patch(message, {"text": "Mine"}, format="json", HTTP_IF_MATCH='"1"').status_code == 200
    assert api.patch(message, {"text": "Stale"}, format="json", HTTP_IF_MATCH='"1"').status_code == 412
    assert api.delete(message, HTTP_IF_MATCH='"1"').status_code == 412
    assert api.delete(message, HTTP_IF_MATCH='"2"').status_code == 204


def test_messages_come_in_stretches_of_a_branch(api: APIClient) -> None:
    chat = str(uuid.uuid4())
    for number in range(3):
        _ask(api, chat, f"Question {number}")
        _finish()
    newest = api.get(f"/api/chats/{chat}/messages/?size=2").data
    assert [m["position"] for m in newest["messages"]] == [4, 5]
    assert newest["has_older"]
    older = api.get(f"/api/chats/{chat}/messages/?size=2&upto=3").data
    assert [m["position"] for m in older["messages"]] == [2, 3]
    assert api.get(f"/api/chats/{chat}/messages/?branch=x").status_code == 400
    assert api.get(f"/api/chats/{chat}/messages/?branch={uuid.uuid4()}").status_code == 404


@pytest.mark.parametrize(
    "body", [{}, {"model": "fake"}, {"model": "fake", "text": "Hi", "params": {"temperature": 9}}, {"text": "Hi"}]
)
def test_mistakes_are_named(api: APIClient, body: dict[str, Any]) -> None:
    response = api.post(f"/api/chats/{uuid.uuid4()}/messages/", body, format="json")
    assert response.status_code == 400
    assert response.data["errors"]
    assert not Chat.objects.exists()


def test_search(api: APIClient) -> None:
    _ask(api, str(uuid.uuid4()), "A zebra crosses")
    hits = api.get("/api/search/?q=zeb").data
    assert "zebra crosses" in hits[0]["snippet"]
    assert api.get("/api/search/").status_code == 400


def test_a_gateway_that_is_away_holds_up_nobody(api: APIClient) -> None:
    """Nothing listens where the gateway should be; what was known last is the answer."""
    status = api.get("/api/llm/status/")
    assert status.status_code == 200
    assert set(status.data) == {"available", "gateway_heard", "ready"}
    assert api.get("/api/llm/models/").status_code == 200
