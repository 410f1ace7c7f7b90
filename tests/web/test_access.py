"""Nobody sees or changes what is somebody else's, at any address there is."""

import uuid
from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from aiia_platform.accounts.models import ApiKey, User
from aiia_platform.chats.models import Chat
from aiia_platform.generations.models import Generation

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]


def _patterns(resolver: URLResolver | None = None) -> Iterator[URLPattern]:
    for entry in (resolver or get_resolver()).url_patterns:
        if isinstance(entry, URLResolver):
            yield from _patterns(entry)
        else:
            yield entry


#: Addresses with an id in them, from the configuration itself, so that a new one cannot be forgotten.
WITH_IDS = sorted(p.name or "" for p in _patterns() if "_id>" in str(p.pattern) and "aiia_web" in p.lookup_str)
#: What belongs to everybody is there for everybody, and administrators alone change it.
SHARED = {"model-act", "model-remove", "model-scale"}
OPEN = {"healthz", "readyz", "internal-verify-key", "styleguide"}


@pytest.fixture
def addresses(user: User) -> dict[str, str]:
    """Every address of an object of the user."""
    generation = Chat.send(user=user, chat_id=uuid.uuid4(), message_id=uuid.uuid4(), text="Hello", model="m")
    chat, key = f"/chats/{generation.message.chat_id}/", ApiKey.create(user, "laptop")[0]
    answer = f"/generations/{generation.id}/"
    return {
        "chat": chat,
        "chat-send": f"{chat}messages/",
        "chat-delete": f"{chat}delete/",
        "generation-events": f"{answer}events/",
        "generation-stop": f"{answer}stop/",
        "generation-retry": f"{answer}retry/",
        "key-revoke": f"/settings/keys/{key.id}/revoke/",
        "model-act": "/models/qwen3-8b/load/",
        "model-remove": "/models/qwen3-8b/remove/",
        "model-scale": "/models/qwen3-8b/scale/",
    }


@pytest.mark.parametrize("name", WITH_IDS)
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_stranger_finds_nothing(addresses: dict[str, str], stranger: User, name: str, method: str) -> None:
    client = Client()
    client.force_login(stranger)
    form = {"text": "Hi", "model": "m", "message_id": str(uuid.uuid4())}
    response = getattr(client, method)(addresses[name], form)
    assert response.status_code in ((403,) if name in SHARED else (404, 405))
    if method == "post":
        assert response.status_code == 404 or name in {"chat", "generation-events", *SHARED}
    assert Generation.objects.get().state == "queued"
    assert Chat.objects.count() == ApiKey.objects.active().count() == 1


def test_a_stranger_cannot_reuse_a_message_id(user: User, stranger: User) -> None:
    generation = Chat.send(user=user, chat_id=uuid.uuid4(), message_id=uuid.uuid4(), text="Hello", model="m")
    client = Client()
    client.force_login(stranger)
    form = {"text": "Hi", "model": "m", "message_id": str(generation.message.parent_id)}
    assert client.post(f"/chats/{uuid.uuid4()}/messages/", form).status_code == 404


@pytest.mark.parametrize("name", WITH_IDS)
def test_who_is_signed_out_is_sent_to_the_login(addresses: dict[str, str], name: str) -> None:
    response = Client().get(addresses[name])
    if name == "generation-events":
        assert response.status_code == 401
    else:
        assert response["Location"].startswith("/accounts/login/?next=")
    fragment = Client(headers={"HX-Request": "true"}).post(addresses[name])
    assert fragment.status_code == 401


@pytest.mark.parametrize(
    "address", ["/", "/chats/", "/settings/", "/models/", "/models/state/", "/settings/sidebar/", "/settings/keys/"]
)
def test_pages_without_ids_want_a_login_too(db: None, address: str) -> None:
    assert Client().get(address)["Location"] == f"/accounts/login/?next={address}"


def test_forms_want_a_token(user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    response = client.post("/settings/", {"theme": "dark"})
    assert response.status_code == 403
    assert "This form is out of date" in response.content.decode()
