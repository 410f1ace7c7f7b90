"""A summary of what a model can no longer read, by a real worker before a fake model server that answers well."""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat, Message, Summary
from aiia_platform.generations.models import Generation, Sent
from tests.platform.test_afterwords import answered
from tests.support.services import RedisServer
from tests.support.stack import MODEL, Stack

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

Send = Callable[..., Generation]
#: What only the question for a summary has in it.
ASKED = "Summarise the conversation"
SUMMARY = "Rome was chosen, three days in April."


@pytest.fixture
def stack(transactional_db: None, no_jobs: None, redis_server: RedisServer) -> Iterator[Stack]:
    with Stack(redis_server, tokens=20, says={ASKED: SUMMARY}) as stack:
        stack.control.set_model(MODEL, stack.upstream.base_url, engine="vllm", max_model_len=8192, max_in_flight=4)
        stack.start_worker()
        yield stack


@pytest.fixture
def long_chat(user: User) -> Chat:
    """Ten turns of 900 tokens, more than the model's 8,192."""
    chat = Chat.open(user, uuid.uuid4(), {"context": {"strategy": "summary"}})
    parent = None
    for position in range(10):
        role = "assistant" if position % 2 else "user"
        text = f"Turn {position}. " + "word " * 900
        parent = Message.objects.create(chat=chat, user=user, parent=parent, position=position, role=role, text=text)
        if position % 2:
            Generation.objects.create(message=parent, user=user, model=MODEL, state="done")
    assert parent is not None
    Chat.objects.filter(pk=chat.pk).update(leaf=parent.pk)
    chat.refresh_from_db()
    return chat


def asked(stack: Stack) -> list[dict[str, Any]]:
    return [request for request in stack.upstream.requests() if ASKED in json.dumps(request["body"])]


def test_older_messages_are_replaced_by_a_summary_that_is_made_once(stack: Stack, send: Send, long_chat: Chat) -> None:
    generation = answered(send("And now?", long_chat))
    assert generation.state == "done"
    summary = Summary.objects.select_related("message").get()
    assert (summary.text, summary.model) == (SUMMARY, MODEL)
    last = summary.message.position
    # Half of what the model has room for stays word for word.
    assert last == 7
    sent = Sent.objects.get(generation=generation).messages
    assert sent[0] == {"role": "system", "content": f"Summary of the conversation so far:\n\n{SUMMARY}"}
    assert sent[1]["content"].startswith(f"Turn {last + 1}.")
    assert sent[-1]["content"] == "And now?"
    # The model counted what it was sent, and that fits.
    assert 0 < generation.prompt_tokens < 8192
    # It is kept: the next question needs none, and the chat says from where on the model reads all.
    again = answered(send("And then?", long_chat))
    assert Sent.objects.get(generation=again).messages[0] == sent[0]
    assert len(asked(stack)) == 1
    assert long_chat.summary(again.message_id) == summary
    # Another branch has no part in it.
    first = long_chat.messages.get(position=0)
    assert long_chat.summary(first.pk) is None


def test_a_model_that_cannot_summarise_answers_all_the_same(stack: Stack, send: Send, long_chat: Chat) -> None:
    stack.upstream.control(says={ASKED: " "})
    generation = answered(send("And now?", long_chat))
    assert generation.state == "done"
    assert not Summary.objects.exists()
    assert Sent.objects.get(generation=generation).messages[-1]["content"] == "And now?"
