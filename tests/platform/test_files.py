"""Which files a message takes."""

import io
import uuid

import pytest
from django.core.exceptions import ValidationError
from PIL import Image

from aiia_platform.accounts.models import User
from aiia_platform.chats.files import kind, safe_name
from aiia_platform.chats.models import Attachment, Chat
from aiia_platform.generations import context


def _picture(kind_of: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, kind_of)
    return file.getvalue()


@pytest.mark.unit
def test_kinds_go_by_content() -> None:
    assert kind(_picture()) == "image/png"
    assert kind(_picture("JPEG")) == "image/jpeg"
    assert kind("Grüße".encode()) == "text/plain"


@pytest.mark.unit
@pytest.mark.parametrize("content", [b"", b"\x00\x01", _picture()[:40], b"\xff\xfe\xff", b"x" * (10 * 1024 * 1024 + 1)])
def test_what_is_not_taken(content: bytes) -> None:
    with pytest.raises(ValidationError):
        kind(content)


@pytest.mark.unit
def test_names_have_no_folders_and_no_tricks() -> None:
    assert safe_name("../../etc/pass\u202ewd") == "passwd"
    assert safe_name("..\\") == "file"


@pytest.mark.integration
@pytest.mark.usefixtures("no_jobs")
def test_files_are_sent_with_the_message_that_they_are_in(user: User) -> None:
    files = [Attachment.store(user, "a.txt", b"The facts"), Attachment.store(user, "cat.png", _picture())]
    ids = [file.pk for file in files]
    fields = {"user": user, "chat_id": uuid.uuid4(), "text": "What is this?", "model": "fake"}
    generation = Chat.send(**fields, message_id=uuid.uuid4(), attachments=ids)
    (turn,) = context.conversation(generation).turns
    assert turn.text == "a.txt:\n```\nThe facts\n```\n\nWhat is this?"
    assert turn.images[0][1].startswith("data:image/png;base64,")
    told = context.blind(context.conversation(generation)).turns[0]
    assert "cannot see" in told.text
    assert not told.images
    eve = User.objects.create_user("eve", "eve@example.org", "x")
    stolen = Attachment.store(eve, "secret.txt", b"Secret")
    fields["chat_id"] = uuid.uuid4()
    with pytest.raises(Chat.DoesNotExist):
        Chat.send(**fields, message_id=uuid.uuid4(), attachments=[stolen.pk])
