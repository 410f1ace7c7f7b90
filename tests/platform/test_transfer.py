"""Exports that come back as they were, and imports of what other programs export."""

import io
import json
import uuid
import zipfile
from typing import Any

import pytest

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import MAX_MESSAGE_LENGTH, Chat, Message
from aiia_platform.chats.transfer import exporting, importing
from aiia_platform.chats.transfer.parsed import UnreadableExport

pytestmark = [pytest.mark.integration, pytest.mark.django_db, pytest.mark.usefixtures("no_jobs")]


def take(user: User, data: Any) -> Chat:
    """Import one chat."""
    assert importing.store(user, importing.read(json.dumps(data).encode())) == (1, 0)
    return Chat.objects.of(user).get()


def lines(chat: Chat) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in exporting.shown(chat)]


CHATGPT: dict[str, Any] = {
    "title": "Rome",
    "create_time": 1700000000.5,
    "update_time": 1700000300.0,
    "conversation_id": "c-1",
    "current_node": "e",
    "mapping": {
        "root": {"id": "root", "parent": None, "message": None},
        "s": {"parent": "root", "message": {"author": {"role": "system"}, "content": {"parts": ["be kind"]}}},
        "a": {
            "parent": "s",
            "message": {
                "author": {"role": "user"},
                "create_time": 1700000001.0,
                "content": {
                    "content_type": "multimodal_text",
                    "parts": [{"content_type": "image_asset_pointer", "asset_pointer": "x"}, "When was it founded?"],
                },
            },
        },
        "t": {
            "parent": "a",
            "message": {
                "author": {"role": "assistant"},
                "content": {"content_type": "thoughts", "thoughts": [{"content": "Legend says"}]},
            },
        },
        "tool": {"parent": "t", "message": {"author": {"role": "tool"}, "content": {"parts": ["noise"]}}},
        "b": {
            "parent": "tool",
            "message": {
                "author": {"role": "assistant"},
                "content": {"content_type": "text", "parts": ["In 753 BC."]},
                "metadata": {"model_slug": "gpt-4o"},
            },
        },
        "c": {
            "parent": "tool",
            "message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["753 before."]}},
        },
        "d": {"parent": "c", "message": {"author": {"role": "user"}, "content": {"parts": ["And Paris?"]}}},
        "e": {"parent": "d", "message": {"author": {"role": "assistant"}, "content": {"parts": ["Later."]}}},
    },
}


def test_chatgpt(user: User) -> None:
    chat = take(user, [CHATGPT])
    assert (chat.title, chat.source["from"], chat.updated_at.timestamp()) == ("Rome", "chatgpt", 1700000300)
    question = "*(an image, which the export does not hold)*\n\nWhen was it founded?"
    assert lines(chat) == [
        ("user", question),
        ("assistant", "753 before."),
        ("user", "And Paris?"),
        ("assistant", "Later."),
    ]
    other = chat.messages.get(text="In 753 BC.")
    assert (other.generation.model, other.reasoning) == ("gpt-4o", "Legend says")
    assert len(chat.window().messages[1].siblings) == 2


def test_the_archive_of_chatgpt(user: User) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("user.json", "{}")
        archive.writestr("conversations.json", json.dumps([CHATGPT]))
    assert importing.store(user, importing.read(packed.getvalue())) == (1, 0)


def test_open_webui(user: User) -> None:
    thought = (
        '<details type="reasoning" done="true">\n<summary>Thought for 2 s</summary>\n> Hm.\n> So.\n</details>\nHello.'
    )
    messages = {
        "1": {"id": "1", "parentId": None, "role": "user", "content": "Hi", "timestamp": 1700000000},
        "2": {"id": "2", "parentId": "1", "role": "assistant", "content": thought, "model": "qwen3:8b"},
        "3": {"id": "3", "parentId": "1", "role": "assistant", "content": "Hey."},
    }
    inner = {"title": "x", "system": "Be brief.", "tags": ["a"], "history": {"currentId": "2", "messages": messages}}
    chat = take(user, [{"id": "w", "title": "Greetings", "pinned": True, "chat": inner, "created_at": 1700000000}])
    assert (chat.title, chat.is_pinned, chat.tags, chat.system_prompt) == ("Greetings", True, ["a"], "Be brief.")
    assert lines(chat) == [("user", "Hi"), ("assistant", "Hello.")]
    assert chat.messages.get(text="Hello.").reasoning == "Hm.\nSo."
    assert chat.messages.count() == 3


def test_librechat(user: User) -> None:
    answer = {
        "messageId": "b",
        "parentMessageId": "a",
        "isCreatedByUser": False,
        "text": "",
        "content": [{"type": "think", "think": "Hm."}, {"type": "text", "text": {"value": "Hello."}}],
        "model": "gpt-4o",
        "createdAt": "2025-01-02T03:04:05.678Z",
        "children": [],
    }
    root = "00000000-0000-0000-0000-000000000000"
    question = {"messageId": "a", "parentMessageId": root, "isCreatedByUser": True, "text": "Hi", "children": [answer]}
    chat = take(user, {"conversationId": "l", "title": "T", "recursive": True, "messages": [question]})
    assert lines(chat) == [("user", "Hi"), ("assistant", "Hello.")]
    stored = chat.messages.get(role="assistant")
    assert (stored.reasoning, stored.generation.model, stored.created_at.year) == ("Hm.", "gpt-4o", 2025)


def test_what_goes_out_comes_back(user: User, django_user_model: type[User]) -> None:
    chat = take(user, [CHATGPT])
    chat.change(title="Rome & <b>", tags=["history"], is_pinned=True, system_prompt="Be kind.")
    chat.choose(chat.messages.get(text="In 753 BC.").pk)
    data = json.dumps(exporting.as_json([chat])).encode()
    other = django_user_model.objects.create_user("other@example.com", "secret-enough-1")
    assert importing.store(other, importing.read(data)) == (1, 0)
    assert importing.store(other, importing.read(data)) == (0, 1)
    copy = Chat.objects.of(other).get()
    for name in ("title", "tags", "is_pinned", "system_prompt"):
        assert getattr(copy, name) == getattr(chat, name)
    assert lines(copy) == lines(chat)
    assert copy.messages.count() == chat.messages.count()
    assert sorted(copy.messages.values_list("text", "position")) == sorted(
        chat.messages.values_list("text", "position")
    )
    assert "".join(exporting.as_markdown(copy)).startswith("# Rome & <b>\n\n## You\n")


def test_a_message_that_is_too_long_is_cut_and_says_so(user: User) -> None:
    message = {"id": "1", "role": "user", "text": "x" * (MAX_MESSAGE_LENGTH + 5) + "\x00"}
    text = take(user, {"id": "o", "messages": [message]}).messages.get().text
    assert len(text) == MAX_MESSAGE_LENGTH
    assert text.endswith("longer than a message may be)*")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "no chat"),
        (b"[1]", "Entry 1 is no chat"),
        (b'{"a": 1}', "Entry 1 is no chat"),
        (b'{"format": "aiia-chats", "chats": [{"id": "a", "messages": [{"id": "1", "role": "user"}]}, {}]}', "Entry 2"),
        (b'{"id": "a", "messages": [7]}', "messages.0"),
        (b'{"mapping": {"a": {"message": {"content": {}}}}}', "mapping.a.message.author"),
        (b"PK\x03\x04broken", "archive"),
    ],
)
def test_what_is_no_export_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(UnreadableExport, match=words):
        importing.read(content)


def test_messages_in_a_circle_are_refused(user: User) -> None:
    circle = [{"id": "1", "parent": "2", "role": "user"}, {"id": "2", "parent": "1", "role": "user"}]
    parsed = importing.read(json.dumps({"id": "o", "title": "Round", "messages": circle}).encode())
    with pytest.raises(UnreadableExport, match="circle"):
        importing.store(user, parsed)
    assert not Message.objects.exists()


def test_a_long_chat_is_stored_in_few_queries(user: User, django_assert_max_num_queries: Any) -> None:
    rows = [
        {"id": str(n), "parent": str(n - 1), "role": ("user", "assistant")[n % 2], "text": "x"} for n in range(3000)
    ]
    parsed = importing.read(json.dumps({"id": str(uuid.uuid4()), "messages": rows}).encode())
    with django_assert_max_num_queries(30):
        importing.store(user, parsed)
    assert len(exporting.shown(Chat.objects.of(user).get())) == 3000
