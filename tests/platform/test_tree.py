"""Branches of a chat: siblings, forks, and what a stale device can and cannot do."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat, Message, Stale, expire
from aiia_platform.generations.models import ChatBusy, Generation

pytestmark = [pytest.mark.integration, pytest.mark.django_db, pytest.mark.usefixtures("no_jobs")]
Say = Callable[..., Message]


@pytest.fixture
def say(user: User) -> Say:
    """Send a message and have it answered at once; gives the answer."""

    def say(text: str, chat: Chat | None = None, **more: Any) -> Message:
        fields = {"user": user, "chat_id": chat.id if chat else uuid.uuid4(), "message_id": uuid.uuid4()}
        generation = Chat.send(**(fields | {"text": text, "model": "fake"} | more))
        finish(generation, f"Answer to {text}")
        return generation.message

    return say


def finish(generation: Generation, text: str) -> None:
    for each in Generation.objects.filter(message__parent=generation.message.parent_id, state="queued"):
        Message.objects.filter(pk=each.message_id).update(text=text)
        Generation.objects.filter(pk=each.pk).update(state="done")


def shown(chat: Chat, through: uuid.UUID | None = None) -> list[str]:
    chat.refresh_from_db()
    return [message.text for message in chat.window(through).messages]


def test_an_edited_question_is_a_sibling_and_the_old_one_stays(say: Say) -> None:
    answer = say("One")
    chat, first = answer.chat, answer.parent
    assert first is not None
    say("Two", chat)
    say("One, better", chat, instead_of=first.pk)
    assert shown(chat) == ["One, better", "Answer to One, better"]
    assert shown(chat, first.pk) == ["One", "Answer to One", "Two", "Answer to Two"]
    top = chat.window().messages[0]
    assert (top.number, len(top.siblings)) == (2, 2)
    assert top.previous == first.pk
    assert top.next is None


def test_regenerating_makes_a_sibling_of_the_answer_once(say: Say, user: User) -> None:
    answer = say("One")
    chat, again = answer.chat, uuid.uuid4()
    assert answer.parent_id is not None
    for _ in range(2):
        generation = chat.regenerate(answer.parent_id, answer_id=again, model="other", params={"temperature": 0})
    finish(generation, "Another")
    assert generation.params == {"temperature": 0.0}
    assert shown(chat) == ["One", "Another"]
    assert len(chat.window().messages[1].siblings) == 2
    assert Generation.objects.filter(message__chat=chat).count() == 2


def test_a_stale_tab_that_sends_begins_a_branch(say: Say) -> None:
    """Two devices show the same chat; one goes on, the other sends what it wrote before it saw that."""
    seen = say("One")
    chat = seen.chat
    say("From the phone", chat, after=seen.pk)
    say("From the stale tab", chat, after=seen.pk)
    assert shown(chat) == ["One", "Answer to One", "From the stale tab", "Answer to From the stale tab"]
    phone = chat.window().messages[2].previous
    assert shown(chat, phone)[2:] == ["From the phone", "Answer to From the phone"]


def test_a_stale_tab_cannot_overwrite_an_answer(say: Say) -> None:
    answer = say("One")
    Message.objects.get(pk=answer.pk).edit("Edited on the phone", version=1)
    with pytest.raises(Stale) as stale:
        answer.edit("Edited in the stale tab", version=1)
    assert stale.value.current.text == "Edited on the phone"
    with pytest.raises(Stale):
        answer.remove(version=1)
    assert shown(answer.chat) == ["One", "Edited on the phone"]


def test_deleting_a_message_takes_nothing_else_with_it(say: Say) -> None:
    answer = say("One")
    chat = answer.chat
    # Another device goes on meanwhile.
    say("Two", chat)
    answer.remove(version=1)
    chat.refresh_from_db()
    assert [m.text for m in chat.window().messages if not m.deleted_at] == ["One", "Two", "Answer to Two"]
    answer.restore()
    assert [m.text for m in chat.window().messages if not m.deleted_at][1] == "Answer to One"


def test_a_question_is_never_replaced(say: Say) -> None:
    answer = say("One")
    assert answer.parent is not None
    with pytest.raises(ValidationError):
        answer.parent.edit("Two", version=1)


def test_an_answer_that_is_written_is_not_edited(user: User) -> None:
    generation = Chat.send(user=user, chat_id=uuid.uuid4(), message_id=uuid.uuid4(), text="One", model="fake")
    with pytest.raises(ChatBusy):
        generation.message.edit("Two", version=1)


def test_going_on_does_not_void_an_edit(say: Say) -> None:
    answer = say("One")
    Generation.objects.filter(message=answer).update(state="stopped")
    Message.objects.get(pk=answer.pk).edit("My own words", version=1)
    generation = Generation.objects.get(message=answer)
    generation.retry()
    assert generation.state == "stopped"


def test_a_fork_takes_the_branch_up_to_a_message(say: Say) -> None:
    answer = say("One")
    chat = answer.chat
    say("Two", chat)
    new = uuid.uuid4()
    fork = chat.fork(answer.pk, new)
    assert chat.fork(answer.pk, new) == fork
    assert shown(fork) == ["One", "Answer to One"]
    say("Three", fork)
    assert len(shown(chat)) == 4
    assert Generation.objects.get(message__chat=fork, message__position=1).model == "fake"


def test_a_duplicate_has_every_branch(say: Say) -> None:
    answer = say("One")
    chat = answer.chat
    say("One, better", chat, instead_of=answer.parent_id)
    copy = Chat.objects.get(pk=chat.pk).duplicate()
    assert copy.messages.count() == chat.messages.count() == 4
    assert shown(copy) == shown(chat)


def test_several_samples_and_models_answer_beside_each_other(say: Say) -> None:
    answer = say("One", count=3)
    chat = Chat.objects.get(pk=answer.chat_id)
    last = chat.window().messages[-1]
    assert len(last.siblings) == 3
    assert last.is_beside
    temperatures = [g.params["temperature"] for g in Generation.objects.filter(message__chat=chat)]
    assert sorted(temperatures) == [0.7, 0.85, 1.0]
    chat.choose(last.siblings[1])
    assert chat.window().messages[-1].pk == last.siblings[1]
    assert not chat.messages.filter(is_beside=True).exists()
    say("Two", chat, beside=["other"])
    models = Generation.objects.filter(message__chat=chat, message__position=3).values_list("model", flat=True)
    assert sorted(models) == ["fake", "other"]


@pytest.mark.parametrize(
    "params", [{"temperature": 3}, {"top_k": 1.5}, {"stop": [""]}, {"nonsense": 1}, {"seed": float("nan")}]
)
def test_parameters_that_cannot_be(say: Say, params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        say("One", params=params)
    assert not Chat.objects.exists()


def test_parameters_of_a_message_stand_above_those_of_its_chat(say: Say) -> None:
    chat = say("One", settings={"params": {"temperature": 0.2, "max_tokens": 50}, "system_prompt": "Be brief"}).chat
    answer = say("Two", chat, params={"temperature": 1})
    assert Generation.objects.get(message=answer).params == {"temperature": 1.0, "max_tokens": 50}


def test_only_fifty_messages_are_read_of_a_long_chat(user: User, django_assert_num_queries: Any) -> None:
    chat = long_chat(user, 5000)
    with django_assert_num_queries(3):
        window = chat.window()
    assert [m.position for m in window.messages] == list(range(4950, 5000))
    assert window.has_older
    assert not window.has_newer
    older = chat.window(window.leaf, upto=window.first - 1)
    assert (older.first, older.last, older.has_newer) == (4900, 4949, True)
    assert not chat.window(window.leaf, upto=49).has_older


def long_chat(user: User, count: int) -> Chat:
    chat = Chat.objects.create(user=user, title="Long")
    ids = [uuid.uuid4() for _ in range(count)]
    Message.objects.bulk_create(
        Message(
            id=ids[i],
            chat=chat,
            user=user,
            parent_id=ids[i - 1] if i else None,
            position=i,
            role="assistant" if i % 2 else "user",
            text=f"Message {i}",
        )
        for i in range(count)
    )
    Generation.objects.bulk_create(
        Generation(message_id=ids[i], user=user, model="fake", state="done") for i in range(1, count, 2)
    )
    chat.leaf = ids[-1]
    chat.save(update_fields=["leaf"])
    return chat


def test_settings_of_a_chat_are_not_overwritten_unseen(say: Say) -> None:
    chat = say("One").chat
    other = Chat.objects.get(pk=chat.pk)
    chat.change(version=1, title="  A  name ", is_pinned=True)
    assert (chat.title, chat.version) == ("A name", 2)
    with pytest.raises(Stale):
        other.change(version=1, title="Another")


def test_a_deleted_chat_can_be_brought_back(user: User, say: Say) -> None:
    chat = say("One").chat
    chat.trash()
    assert not Chat.objects.of(user).exists()
    Chat.objects.trashed(user).get().restore()
    assert Chat.objects.of(user).get() == chat


def test_what_was_deleted_goes_for_good_after_a_day(user: User, say: Say) -> None:
    deleted, kept, temporary = say("One"), say("Two"), say("Three", temporary=True)
    Chat.objects.filter(pk=deleted.chat_id).update(deleted_at=timezone.now() - timedelta(hours=25))
    Chat.objects.filter(pk=temporary.chat_id).update(updated_at=timezone.now() - timedelta(hours=25))
    Message.objects.get(pk=kept.pk).remove(version=1)
    expire()
    assert Chat.objects.get().pk == kept.chat_id
    assert Message.objects.get(pk=kept.pk).text == "Answer to Two"
    expire(timezone.now() + timedelta(hours=25))
    assert Message.objects.get(pk=kept.pk).text == ""
