"""Files in messages, as a browser sends and gets them."""

import io
import uuid
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from PIL import Image

from aiia_platform.accounts.models import User
from aiia_platform.chats.files import MAX_FILE
from aiia_platform.chats.models import MAX_FILES, Attachment, Chat, Message
from aiia_platform.generations.models import Generation

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


def form(*files: tuple[str, bytes], **fields: str) -> dict[str, Any]:
    upload = [SimpleUploadedFile(name, content) for name, content in files]
    return {"text": "Look", "model": "qwen3-8b", "message_id": str(uuid.uuid4()), "files": upload} | fields


def test_a_picture_and_a_text_go_with_a_message(page: Client, user: User) -> None:
    chat_id = uuid.uuid4()
    sent = page.post(f"/chats/{chat_id}/messages/", form(("a.png", png()), ("../b<i>.txt", b"words")))
    assert sent.status_code == 302
    picture, text = Attachment.objects.filter(message__chat=chat_id)
    assert (picture.content_type, text.content_type, text.name) == ("image/png", "text/plain", "b<i>.txt")
    html = page.get(f"/chats/{chat_id}/").content.decode()
    assert f'<img src="/files/{picture.pk}/" alt="a.png"' in html
    assert "b&lt;i&gt;.txt" in html
    shown = page.get(f"/files/{picture.pk}/")
    assert (shown["Content-Type"], shown.content) == ("image/png", png())
    assert "sandbox" in shown["Content-Security-Policy"]
    assert page.get(f"/files/{text.pk}/")["Content-Disposition"].startswith("attachment")


def test_a_fragment_shows_them_at_once(fragment: Client) -> None:
    html = fragment.post(f"/chats/{uuid.uuid4()}/messages/", form(("a.png", png()))).content.decode()
    assert '<img src="/files/' in html


def test_a_repeated_message_keeps_one_of_each(page: Client) -> None:
    chat_id, message_id = uuid.uuid4(), str(uuid.uuid4())
    for _ in range(2):
        page.post(f"/chats/{chat_id}/messages/", form(("a.txt", b"words"), message_id=message_id))
    assert Attachment.objects.count() == 1


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("a.exe", b"MZ\x00\x01")], "a.exe: PNG, JPEG, WebP and GIF pictures and text files"),
        ([("a.png", png()[:-28])], "a.png: The picture is damaged"),
        ([("a.txt", b"")], "a.txt: The file is empty"),
        ([("a.txt", b"x" * (MAX_FILE + 1))], "10 MB at most"),
        ([(f"{n}.txt", b"x") for n in range(MAX_FILES + 1)], "10 files at most"),
    ],
)
def test_what_cannot_be_sent_is_said_and_the_text_stays(
    page: Client, files: list[tuple[str, bytes]], words: str
) -> None:
    answer = page.post(f"/chats/{uuid.uuid4()}/messages/", form(*files, text="Precious words"))
    html = answer.content.decode()
    assert answer.status_code == 422
    assert words in html
    assert "Precious words" in html
    assert not Attachment.objects.exists()
    assert not Message.objects.exists()


def test_a_refused_message_leaves_no_file(page: Client, user: User) -> None:
    chat_id = uuid.uuid4()
    page.post(f"/chats/{chat_id}/messages/", form())
    assert Generation.objects.active().exists()
    assert page.post(f"/chats/{chat_id}/messages/", form(("a.txt", b"words"))).status_code == 409
    assert not Attachment.objects.exists()


def test_pages_do_not_read_what_is_in_files(page: Client, django_assert_num_queries: Any) -> None:
    chat_id = uuid.uuid4()
    page.post(f"/chats/{chat_id}/messages/", form(("a.txt", b"words"), ("b.txt", b"words")))
    window = Chat.objects.get(pk=chat_id).window()
    with django_assert_num_queries(0):
        files = list(window.messages[0].attachments.all())
    assert all("content" in file.get_deferred_fields() for file in files)
