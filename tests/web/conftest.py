import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from aiia_platform import gateway
from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat
from aiia_platform.gateway import ModelInfo
from aiia_platform.generations.models import Generation


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create_user("ada", "ada@example.org", "correct horse battery")


@pytest.fixture
def stranger(db: None) -> User:
    return User.objects.create_user("eve", "eve@example.org", "correct horse battery")


@pytest.fixture
def page(user: User) -> Client:
    """A browser without scripts, signed in."""
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def fragment(user: User) -> Client:
    """HTMX in a browser, signed in."""
    client = Client(headers={"HX-Request": "true"})
    client.force_login(user)
    return client


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[ModelInfo]:
    """The models that the gateway lists; a test changes the list."""
    listed = [model("qwen3-8b"), model("smollm2-135m")]

    async def fetch(wait: float) -> list[ModelInfo]:
        return listed

    monkeypatch.setattr(gateway, "fetch_models", fetch)
    monkeypatch.setattr(gateway, "_models", (float("-inf"), []))
    return listed


def model(name: str, state: str = "ready", **more: object) -> ModelInfo:
    fields: dict[str, object] = {"id": name, "title": name.title(), "task": "chat", "state": state, "reason": ""}
    fields |= {"progress": None, "eta_s": None, "max_model_len": None, "exact_continuation": False} | more
    return ModelInfo(**fields)  # type: ignore[arg-type]


@pytest.fixture
def make_chat(user: User) -> Callable[..., Chat]:
    """A chat of the user with so many questions, all answered; or the last one in another state."""

    def make(count: int = 1, state: str = "done", *, owner: User = user, **fields: object) -> Chat:
        chat_id = uuid.uuid4()
        for number in range(count):
            generation = Chat.send(
                user=owner, chat_id=chat_id, message_id=uuid.uuid4(), text=f"Question {number}", model="qwen3-8b"
            )
            generation.message.text = f"Answer *{number}*"
            generation.message.save()
            last = number == count - 1
            now = state if last else "done"
            Generation.objects.filter(pk=generation.pk).update(state=now, **(fields if last else {}))
        return Chat.objects.get(pk=chat_id)

    return make
