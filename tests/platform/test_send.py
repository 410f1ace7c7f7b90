import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from procrastinate.contrib.django.models import ProcrastinateJob

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat, Message
from aiia_platform.generations.models import ChatBusy, Generation

pytestmark = [pytest.mark.integration, pytest.mark.django_db, pytest.mark.usefixtures("no_jobs")]

Send = Callable[..., Generation]


def test_send_stores_question_answer_generation_and_job(send: Send) -> None:
    generation = send("What is the capital of France?")
    chat = generation.message.chat
    assert chat.title == "What is the capital of France?"
    assert [(m.role, m.text) for m in chat.messages.all()] == [
        ("user", "What is the capital of France?"),
        ("assistant", ""),
    ]
    assert generation.state == "queued"
    assert ProcrastinateJob.objects.filter(args__generation_id=str(generation.pk)).count() == 1


def test_repeated_send_changes_nothing(send: Send) -> None:
    generation = send("Hello")
    question = generation.message.parent
    assert send("Hello", generation.message.chat, question.id) == generation
    assert Message.objects.count() == 2
    assert ProcrastinateJob.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_200_double_posts_make_100_messages(user: User, send: Send) -> None:
    """Each message is posted twice at the same time, in a chat of its own that both make."""
    pairs = [(uuid.uuid4(), uuid.uuid4()) for _ in range(100)]

    def post(ids: tuple[uuid.UUID, uuid.UUID]) -> Generation:
        try:
            return Chat.send(user=user, chat_id=ids[0], message_id=ids[1], text="Hello", model="fake")
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        generations = list(pool.map(post, [pair for pair in pairs for _ in range(2)]))
    assert Message.objects.filter(role="user").count() == 100
    assert Message.objects.filter(role="assistant").count() == 100
    assert len({generation.pk for generation in generations}) == 100
    assert ProcrastinateJob.objects.count() == 100


def test_second_message_waits_for_the_first_answer(send: Send) -> None:
    generation = send()
    chat = generation.message.chat
    with pytest.raises(ChatBusy):
        send("And now?", chat)
    generation.stop()
    send("And now?", chat)
    assert [m.position for m in chat.messages.all()] == [0, 1, 2, 3]


@pytest.mark.parametrize(("text", "code"), [("", "empty"), (" \n ", "empty"), ("x" * 200_001, "too_long")])
def test_texts_that_cannot_be_sent(send: Send, text: str, code: str) -> None:
    with pytest.raises(ValidationError) as error:
        send(text)
    assert error.value.code == code
    assert not Chat.objects.exists()


def test_nul_characters_are_left_out(send: Send) -> None:
    assert send("a\x00b").message.parent.text == "ab"


@pytest.mark.parametrize("model", ["", "m" * 201])
def test_models_that_cannot_be(user: User, model: str) -> None:
    with pytest.raises(ValidationError):
        Chat.send(user=user, chat_id=uuid.uuid4(), message_id=uuid.uuid4(), text="Hello", model=model)


def test_id_of_an_answer_is_no_id_of_a_question(send: Send) -> None:
    answer = send().message
    with pytest.raises(Chat.DoesNotExist):
        send("Hello", answer.chat, answer.id)


def test_somebody_elses_chat_is_not_there(send: Send) -> None:
    chat = send().message.chat
    mallory = User.objects.create_user("mallory", "m@example.org", "x")
    with pytest.raises(Chat.DoesNotExist):
        Chat.send(user=mallory, chat_id=chat.id, message_id=uuid.uuid4(), text="Hello", model="fake")


def test_somebody_elses_message_id_is_refused(send: Send) -> None:
    question = send().message.parent
    mallory = User.objects.create_user("mallory", "m@example.org", "x")
    with pytest.raises(Chat.DoesNotExist):
        Chat.send(user=mallory, chat_id=uuid.uuid4(), message_id=question.id, text="Hello", model="fake")
