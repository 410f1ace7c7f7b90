"""How full the context is, and what stands for the messages that no longer fit."""

import re
import urllib.request
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from aiia_platform.chats.models import Chat, Message, Summary
from aiia_platform.gateway import ModelInfo
from aiia_platform.generations.models import Generation, Sent
from tests.support.services import RedisServer
from tests.support.stack import Stack
from tests.web.conftest import model

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]
MakeChat = Callable[..., Chat]


def newest(chat: Chat) -> Message:
    return Message.objects.get(pk=chat.leaf)


def measured(chat: Chat, limit: int | None = 8192) -> Message:
    """The newest answer, with what its model counted."""
    message = newest(chat)
    Generation.objects.filter(message=message).update(prompt_tokens=1200, completion_tokens=34)
    Sent.objects.create(generation=message.generation, messages=[], limit=limit)
    return message


def gauge(html: str) -> str:
    found = re.search(r'<p id="gauge".*?</p>', html, re.DOTALL)
    assert found
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())


def test_the_composer_says_how_full_the_context_is_by_the_models_own_count(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat(2)
    assert gauge(page.get("/").content.decode()) == ""
    assert gauge(page.get(f"/chats/{chat.pk}/").content.decode()) == ""
    message = measured(chat)
    html = page.get(f"/chats/{chat.pk}/").content.decode()
    assert gauge(html) == "1,234 of 8,192 tokens of context"
    assert 'max="8192" value="1234"' in html
    assert f'hx-get="/messages/{message.pk}/gauge/"' in html


def test_a_model_of_unknown_length_has_no_gauge(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat()
    measured(chat, limit=None)
    assert gauge(page.get(f"/chats/{chat.pk}/").content.decode()) == ""


def test_another_model_counts_anew_and_one_that_cannot_shows_none(
    fragment: Client, make_chat: MakeChat, models: list[ModelInfo]
) -> None:
    message = measured(make_chat())
    models[:] = [model("qwen3-8b"), model("small", max_model_len=2048)]
    address = f"/messages/{message.pk}/gauge/"
    assert gauge(fragment.get(f"{address}?model=qwen3-8b").content.decode()) == "1,234 of 8,192 tokens of context"
    # This gateway only lists models.
    assert gauge(fragment.get(f"{address}?model=small").content.decode()) == ""
    assert gauge(fragment.get(f"{address}?model=gone").content.decode()) == ""


def test_the_page_costs_the_same_queries_however_long_the_chat_is(page: Client, make_chat: MakeChat) -> None:
    counts = []
    for length in (2, 20):
        chat = make_chat(length)
        measured(chat)
        Chat.objects.filter(pk=chat.pk).update(context={"strategy": "summary"})
        Summary.objects.create(message=chat.messages.get(position=1), model="m", text="Rome was chosen")
        page.get(f"/chats/{chat.pk}/")
        with CaptureQueriesContext(connection) as queries:
            assert page.get(f"/chats/{chat.pk}/").status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_a_summary_stands_in_the_chat_where_the_model_stops_reading_all(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat(3)
    last = chat.messages.get(position=1)
    Summary.objects.create(message=last, model="qwen3-8b", text="**Rome** was <i>chosen</i>")
    assert "summary-marker" not in page.get(f"/chats/{chat.pk}/").content.decode()
    chat.change(context={"strategy": "summary"})
    html = page.get(f"/chats/{chat.pk}/").content.decode()
    before, after = html.split('id="summary-marker"')
    assert "Older messages were summarised for the model" in after
    assert "<strong>Rome</strong> was &lt;i&gt;chosen" in after
    assert f"message-{last.pk}" in before
    assert "Question 1" not in before.split('id="messages"')[1]
    assert "Question 1" in after
    # The full text is one click away, also when it is on another page.
    link = re.search(r'href="(\?branch=[^"]+)"[^>]*>Read the messages in full', html)
    assert link
    text = page.get(f"/chats/{chat.pk}/{link[1].replace('&amp;', '&').split('#')[0]}").content.decode()
    assert "Question 0" in text


def test_a_summary_of_messages_that_are_not_on_the_page_stands_at_its_top(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat(30)
    Summary.objects.create(message=chat.messages.get(position=3), model="m", text="Rome was chosen")
    chat.change(context={"strategy": "summary"})
    html = page.get(f"/chats/{chat.pk}/").content.decode()
    assert html.count('id="summary-marker"') == 1
    assert html.index('id="summary-marker"') < html.index("<article")


@pytest.mark.django_db(transaction=True)
def test_the_chosen_models_tokenizer_counts_and_a_dead_gateway_holds_up_no_page(
    transactional_db: None, redis_server: RedisServer, page: Client, make_chat: MakeChat
) -> None:
    chat = make_chat(2)
    message = measured(chat)
    cookie = f"sessionid={page.cookies['sessionid'].value}"

    with Stack(redis_server) as stack:
        stack.control.set_model("other", stack.upstream.base_url, engine="vllm", max_model_len=4096)
        web = stack.start_web()

        def read(path: str) -> str:
            request = urllib.request.Request(web + path, headers={"Cookie": cookie})
            with urllib.request.urlopen(request, timeout=20) as response:
                return str(response.read().decode())

        # One token to start with, and role and words of four turns.
        other = f"/messages/{message.pk}/gauge/?model=other"
        assert gauge(read(other)) == "13 of 4,096 tokens of context"
        stack.gateway.kill()
        assert gauge(read(other)) == ""
        assert gauge(read(f"/chats/{chat.pk}/")) == "1,234 of 8,192 tokens of context"
