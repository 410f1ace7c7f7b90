"""Titles, tags and questions to go on with are made after the answer, by real workers before a fake model server."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiia_platform.accounts.models import User, UserSettings
from aiia_platform.afterwords.models import Afterword
from aiia_platform.chats.models import Chat
from aiia_platform.generations.models import Generation
from tests.support.services import RedisServer
from tests.support.stack import MODEL, Stack

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

Send = Callable[..., Generation]
#: What only the question of an afterword has in it.
ASKED = "Here is a conversation"
GOOD = {
    "title": "Three Days in Rome",
    "tags": ["rome", "travel"],
    "questions": ["Where should I stay in Rome?", "Is April a good month?", "What does it cost?"],
}


@pytest.fixture(autouse=True)
def _switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIIA_TITLES", "AIIA_TAGS", "AIIA_FOLLOW_UPS"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def stack(transactional_db: None, no_jobs: None, redis_server: RedisServer) -> Iterator[Stack]:
    with Stack(redis_server, tokens=20, says={ASKED: json.dumps(GOOD)}) as stack:
        yield stack


def until(ready: Callable[[], Any], within: float = 30) -> Any:
    """What is ready, as soon as it is. Polls, since what is watched may be what is broken."""
    deadline = time.monotonic() + within
    while not (found := ready()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def after(generation: Generation, *, within: float = 30) -> Afterword:
    """The afterword, once it is settled."""
    settled = Afterword.objects.filter(generation=generation).exclude(state="pending")
    found: Afterword = until(settled.first, within)
    return found


def asked(stack: Stack) -> list[dict[str, Any]]:
    """The requests for afterwords that the model got."""
    return [request for request in stack.upstream.requests() if ASKED in json.dumps(request["body"])]


def answered(generation: Generation) -> Generation:
    rows = Generation.objects.select_related("message__chat").filter(pk=generation.pk)
    found: Generation = until(rows.exclude(state__in=Generation.ACTIVE).first)
    return found


def test_a_chat_gets_title_tags_and_questions_after_its_first_answer(stack: Stack, send: Send) -> None:
    stack.start_worker()
    generation = send("Three days in Rome, what should I see?")
    afterword = after(generation)
    assert (afterword.state, afterword.model) == ("done", MODEL)
    assert afterword.follow_ups == GOOD["questions"]
    assert afterword.prompt_tokens > 0
    assert afterword.completion_tokens > 0
    chat = Chat.objects.get(pk=generation.message.chat_id)
    assert (chat.title, chat.tags, chat.is_titled, chat.version) == (GOOD["title"], GOOD["tags"], True, 2)
    # It counts as part of what the chat used.
    read = Generation.objects.get(pk=generation.pk).prompt_tokens + afterword.prompt_tokens
    assert chat.totals()["prompt_tokens"] == read
    # It read what was said, and is not part of it.
    (request,) = asked(stack)
    assert "Three days in Rome" in request["body"]["messages"][0]["content"]
    assert chat.messages.count() == 2
    # The next answer gets questions alone.
    again = send("And in winter?", chat)
    assert after(again).wants == ["follow_ups"]


def test_it_waits_behind_all_that_somebody_waits_for(stack: Stack, send: Send) -> None:
    """One slot: an afterword that is there first goes after a question that comes later, and is metered as batch."""
    stack.control.set_model(MODEL, stack.upstream.base_url, max_model_len=8192, max_in_flight=1)
    stack.upstream.control(tokens=60, tokens_per_second=40)
    stack.start_worker()
    first = send("First")
    until(lambda: stack.upstream.requests())
    second = send("Second")
    answered(first)
    until(lambda: Afterword.objects.filter(generation=first))
    third = send("Third")
    for generation in (first, second, third):
        after(generation)
    order = ["afterword" if ASKED in json.dumps(r["body"]) else "answer" for r in stack.upstream.requests()]
    assert order == ["answer"] * 3 + ["afterword"] * 3
    records = stack.control.wait_usage(lambda records: len(records) == 6)
    assert sorted(record["class"] for record in records) == ["batch"] * 3 + ["interactive"] * 3


def test_an_answer_is_done_while_the_model_will_not_write_an_afterword(stack: Stack, send: Send) -> None:
    stack.start_worker(AIIA_AFTERWORD_MODEL="away")
    stack.control.set_model("away", stack.upstream.base_url, state="starting")
    generation = answered(send())
    assert generation.state == "done"
    assert Afterword.objects.get(generation=generation).is_pending
    # The chat goes on, and what was still to be made for it is no longer asked.
    chat = generation.message.chat
    answered(send("Go on", chat))
    assert after(generation).state == "void"
    assert Chat.objects.get(pk=chat.pk).title == "Hello"


def test_a_killed_workers_afterword_is_written_by_another(stack: Stack, send: Send) -> None:
    stack.start_worker(AIIA_AFTERWORD_MODEL="slow")
    stack.control.set_model("slow", stack.upstream.base_url, state="starting")
    generation = answered(send())
    until(Afterword.objects.filter(worker__isnull=False).first)
    stack.workers[0].kill()
    stack.start_worker()
    afterword = after(generation)
    assert (afterword.state, afterword.model) == ("done", MODEL)


def test_a_stopped_worker_leaves_it_to_another(stack: Stack, send: Send) -> None:
    worker = stack.start_worker(AIIA_AFTERWORD_MODEL="slow")
    stack.control.set_model("slow", stack.upstream.base_url, state="starting")
    generation = answered(send())
    until(Afterword.objects.filter(worker__isnull=False).first)
    worker.terminate()
    assert worker.wait(15) == 0
    assert Afterword.objects.get(generation=generation).worker is None
    stack.start_worker()
    assert after(generation).state == "done"


def test_nothing_is_made_of_an_answer_that_was_stopped_or_failed(stack: Stack, send: Send) -> None:
    stack.upstream.control(tokens=2000, tokens_per_second=50)
    stack.start_worker()
    generation = send()
    until(lambda: Generation.objects.get(pk=generation.pk).state == "running")
    generation.stop()
    assert answered(generation).state == "stopped"
    stack.upstream.control(fault="status", fault_status=400)
    assert answered(send()).state == "failed"
    assert not Afterword.objects.exists()


def test_nothing_is_made_for_a_chat_that_was_deleted_meanwhile(stack: Stack, send: Send) -> None:
    stack.start_worker(AIIA_AFTERWORD_MODEL="slow")
    stack.control.set_model("slow", stack.upstream.base_url, state="starting")
    generation = answered(send())
    until(Afterword.objects.filter(worker__isnull=False).first)
    generation.message.chat.trash()
    stack.control.set_model("slow", stack.upstream.base_url)
    assert after(generation).state == "void"
    assert not asked(stack)


def test_rubbish_changes_nothing(stack: Stack, send: Send) -> None:
    stack.upstream.control(says={ASKED: 'Sure! {"title": "A\\nB", "tags": "x", "questions": ["no", 7]} the the the'})
    stack.start_worker()
    generation = send("What is time?")
    afterword = after(generation)
    assert afterword.follow_ups == []
    chat = Chat.objects.get(pk=generation.message.chat_id)
    assert (chat.title, chat.tags, chat.is_titled) == ("What is time?", [], False)
    # The next answer is another chance.
    stack.upstream.control(says={ASKED: json.dumps(GOOD)})
    after(send("And space?", chat))
    chat.refresh_from_db()
    assert chat.title == GOOD["title"]


def test_a_title_that_a_person_gave_stays(stack: Stack, send: Send) -> None:
    stack.start_worker(AIIA_AFTERWORD_MODEL="slow")
    stack.control.set_model("slow", stack.upstream.base_url, state="starting")
    generation = answered(send())
    until(Afterword.objects.filter(worker__isnull=False).first)
    generation.message.chat.change(title="Mine")
    stack.control.set_model("slow", stack.upstream.base_url)
    stack.upstream.control(models=[MODEL, "slow"])
    assert after(generation).state == "done"
    chat = Chat.objects.get(pk=generation.message.chat_id)
    assert (chat.title, chat.tags) == ("Mine", GOOD["tags"])


def test_each_part_can_be_switched_off_by_the_installation_and_by_its_user(
    stack: Stack, send: Send, user: User
) -> None:
    stack.start_worker(AIIA_TAGS="0")
    UserSettings.objects.create(user=user, afterwords={"follow_ups": False})
    assert after(send()).wants == ["titles"]
    UserSettings.objects.update(afterwords={"follow_ups": False, "titles": False})
    generation = answered(send())
    assert not Afterword.objects.filter(generation=generation).exists()


def test_a_temporary_chat_gets_none_unless_its_user_wants_them(stack: Stack, user: User) -> None:
    def send() -> Generation:
        return Chat.send(
            user=user, chat_id=uuid.uuid4(), message_id=uuid.uuid4(), text="Hello", model=MODEL, temporary=True
        )

    stack.start_worker()
    assert not Afterword.objects.filter(generation=answered(send())).exists()
    UserSettings.objects.create(user=user, afterwords={"temporary": True})
    assert after(send()).state == "done"


def test_more_waiting_afterwords_than_a_worker_has_room_for_hold_up_no_answer(stack: Stack, send: Send) -> None:
    stack.start_worker(AIIA_AFTERWORD_MODEL="slow", AIIA_WORKER_CONCURRENCY="2")
    stack.control.set_model("slow", stack.upstream.base_url, state="starting")
    for _ in range(5):
        assert answered(send()).state == "done"
    assert Afterword.objects.pending().count() == 5
