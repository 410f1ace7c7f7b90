"""`/api/files/` as a program uses it."""

import io
import uuid
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from PIL import Image
from rest_framework.test import APIClient  # type: ignore[import-untyped]

from aiia_platform.accounts.models import ApiKey, Scope, User
from aiia_platform.chats.models import MAX_FILES, Attachment
from aiia_platform.generations.models import Generation

pytestmark = [pytest.mark.integration, pytest.mark.django_db, pytest.mark.usefixtures("no_jobs")]


def _client(user: User, *scopes: str) -> APIClient:
    client = APIClient()
    key = ApiKey.create(user, "laptop", *([scopes] if scopes else []))[1]
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    return client


@pytest.fixture
def api(user: User) -> APIClient:
    return _client(user)


def _named(content: bytes, name: str) -> io.BytesIO:
    file = io.BytesIO(content)
    file.name = name
    return file


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    return file.getvalue()


def _keep(api: APIClient, content: bytes = b"Notes", name: str = "a.txt", **more: Any) -> Any:
    return api.post("/api/files/", {"file": _named(content, name)}, format="multipart", **more)


def _ask(api: APIClient, chat: str, *files: str, text: str = "Look") -> Any:
    body = {"model": "fake", "text": text, "files": files}
    return api.post(f"/api/chats/{chat}/messages/", body, format="json")


def test_files_are_kept_sent_and_read(api: APIClient) -> None:
    picture, notes = _keep(api, _picture(), "../plan.txt"), _keep(api)
    assert (picture.status_code, notes.status_code) == (201, 201)
    kept = {"name": "plan.txt", "content_type": "image/png", "size": len(_picture())}
    assert picture.data == {"id": picture.data["id"], **kept}
    chat = api.post("/api/chats/", {}, format="json").data["id"]
    assert _ask(api, chat, picture.data["id"], notes.data["id"], text="").status_code == 201
    question = api.get(f"/api/chats/{chat}/").data["messages"][0]
    assert [file["id"] for file in question["files"]] == [picture.data["id"], notes.data["id"]]
    content = api.get(f"/api/files/{picture.data['id']}/")
    assert (content["Content-Type"], content.content) == ("image/png", _picture())
    assert "sandbox" in content["Content-Security-Policy"]


def test_a_file_goes_into_one_message_of_its_owner(api: APIClient, user: User) -> None:
    chat, file = api.post("/api/chats/", {}, format="json").data["id"], _keep(api).data["id"]
    stranger = _client(User.objects.create_user("eve", "eve@example.org", "correct horse battery"))
    other = stranger.post("/api/chats/", {}, format="json").data["id"]
    for refused in (
        _ask(stranger, other, file),
        stranger.get(f"/api/files/{file}/"),
        _ask(api, chat, str(uuid.uuid4())),
    ):
        assert (refused.status_code, refused["Content-Type"]) == (404, "application/problem+json")
    assert _ask(api, chat, file).status_code == 201
    Generation.objects.active().update(state="done")
    assert _ask(api, chat, file).status_code == 404
    assert Attachment.objects.get().message is not None


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"x" * (10 * 1024 * 1024 + 1), _picture()[:40]])
def test_what_no_model_reads_is_refused(api: APIClient, content: bytes) -> None:
    refused = _keep(api, content)
    assert (refused.status_code, refused["Content-Type"]) == (400, "application/problem+json")
    assert [error["field"] for error in refused.data["errors"]] == ["file"]
    assert not Attachment.objects.exists()


def test_a_repeated_upload_is_one_file(api: APIClient) -> None:
    ids = {_keep(api, HTTP_IDEMPOTENCY_KEY="one").data["id"] for _ in range(2)}
    assert len(ids) == Attachment.objects.count() == 1


def test_too_many_files_and_keys_that_may_not_write(api: APIClient, user: User) -> None:
    chat = api.post("/api/chats/", {}, format="json").data["id"]
    assert _ask(api, chat, *(str(uuid.uuid4()) for _ in range(MAX_FILES + 1))).status_code == 400
    assert _keep(_client(user, Scope.READ)).status_code == 403
    assert api.post("/api/files/", {"file": "text"}, format="json").status_code == 415


def test_a_chat_with_more_files_takes_no_more_queries(api: APIClient) -> None:
    chat = api.post("/api/chats/", {}, format="json").data["id"]
    counts = []
    for _ in range(3):
        assert _ask(api, chat, *(_keep(api).data["id"] for _ in range(3))).status_code == 201
        Generation.objects.active().update(state="done")
        with CaptureQueriesContext(connection) as queries:
            api.get(f"/api/chats/{chat}/messages/")
        counts.append(len(queries))
    assert counts[1] == counts[2]
