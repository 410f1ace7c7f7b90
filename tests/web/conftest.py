import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.test import Client

from aiia_platform import gateway
from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat
from aiia_platform.gateway import ModelInfo
from aiia_platform.generations.models import Generation
from tests.support import plugin


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


# Not longer than these tests: others want nobody where the gateway should be.
@pytest.fixture(scope="package")
def _model_list() -> Iterator[list[ModelInfo]]:
    with model_list() as listed:
        yield listed


@pytest.fixture
def models(_model_list: list[ModelInfo], monkeypatch: pytest.MonkeyPatch) -> list[ModelInfo]:
    """The models that the gateway lists; a test changes the list."""
    monkeypatch.setattr(gateway, "FRESH", 0)
    _model_list[:] = [model("qwen3-8b"), model("smollm2-135m")]
    return _model_list


@contextmanager
def model_list() -> Iterator[list[ModelInfo]]:
    """A gateway that only lists models: those in the list that this gives."""
    listed: list[ModelInfo] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = [{"id": info.id, "object": "model", "aiia": asdict(info)} for info in listed]
            body = json.dumps({"object": "list", "data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", plugin.GATEWAY_PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield listed
    server.shutdown()
    server.server_close()


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
