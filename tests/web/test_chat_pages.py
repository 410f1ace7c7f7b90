"""Chat pages, in a browser without scripts and as fragments for HTMX."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from aiia_platform.accounts.models import User
from aiia_platform.afterwords.models import Afterword
from aiia_platform.chats.models import Chat
from aiia_platform.gateway import ModelInfo
from aiia_platform.generations.models import Generation
from tests.web.conftest import model

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]
MakeChat = Callable[..., Chat]


def _form(**fields: str) -> dict[str, str]:
    return {"text": "Hello", "model": "qwen3-8b", "message_id": str(uuid.uuid4())} | fields


def test_a_message_starts_a_chat(page: Client, user: User) -> None:
    chat_id = uuid.uuid4()
    response = page.post(f"/chats/{chat_id}/messages/", _form(text="Trip to Rome"))
    assert response.status_code == 302
    assert response["Location"] == f"/chats/{chat_id}/#end"
    html = page.get(f"/chats/{chat_id}/").content.decode()
    assert "<title>Trip to Rome · aiia</title>" in html
    # The page of a browser without scripts asks again while the answer is being written.
    assert '<noscript><meta http-equiv="refresh"' in html
    assert "Queued" in html
    assert user.chats.get().title == "Trip to Rome"


def test_a_message_sent_twice_is_one_message(page: Client, user: User) -> None:
    chat_id, form = uuid.uuid4(), _form()
    for _ in range(2):
        assert page.post(f"/chats/{chat_id}/messages/", form).status_code == 302
    assert Generation.objects.filter(user=user).count() == 1


def test_a_fragment_brings_both_messages_and_a_fresh_id(fragment: Client) -> None:
    chat_id, form = uuid.uuid4(), _form(text="<b>Hi</b>")
    response = fragment.post(f"/chats/{chat_id}/messages/", form)
    html = response.content.decode()
    assert response["HX-Push-Url"] == f"/chats/{chat_id}/"
    assert "&lt;b&gt;Hi&lt;/b&gt;" in html
    assert 'data-stream="/generations/' in html
    assert 'id="message-id"' in html
    assert form["message_id"] not in html.split('id="message-id"')[1]
    assert "<html" not in html
    Generation.objects.update(state=Generation.State.DONE)
    where = {"HX-Current-URL": f"http://testserver/chats/{chat_id}/"}
    again = fragment.post(f"/chats/{chat_id}/messages/", _form(), headers=where)
    assert again.status_code == 200
    assert "HX-Push-Url" not in again


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": "  "}, "Write something first."),
        ({"text": "x" * 200_001}, "200,000 characters at most"),
        ({"model": ""}, "Choose a model first."),
    ],
)
def test_a_refused_message_stays_in_the_composer(
    page: Client, fragment: Client, fields: dict[str, str], words: str
) -> None:
    form = _form(**fields)
    response = page.post(f"/chats/{uuid.uuid4()}/messages/", form)
    html = response.content.decode()
    assert response.status_code == 422
    assert words in html
    assert form["message_id"] in html
    assert f">{form['text']}</textarea>" in html
    response = fragment.post(f"/chats/{uuid.uuid4()}/messages/", form)
    assert response.status_code == 422
    assert response["HX-Retarget"] == "#composer-error"
    assert words in response.content.decode()


def test_a_chat_takes_one_message_at_a_time(page: Client, fragment: Client, make_chat: MakeChat) -> None:
    chat = make_chat(state="running")
    response = page.post(f"/chats/{chat.id}/messages/", _form(text="My draft"))
    assert response.status_code == 409
    assert ">My draft</textarea>" in response.content.decode()
    assert fragment.post(f"/chats/{chat.id}/messages/", _form()).status_code == 409


def test_a_message_without_an_id_makes_no_sense(page: Client) -> None:
    assert page.post(f"/chats/{uuid.uuid4()}/messages/", _form(message_id="x")).status_code == 400


def test_a_chat_shows_what_was_said(page: Client, make_chat: MakeChat) -> None:
    html = page.get(f"/chats/{make_chat(2).id}/").content.decode()
    assert "Question 0" in html
    assert "Answer <em>1</em>" in html
    assert "data-stream" not in html
    assert "http-equiv" not in html


def test_a_failed_answer_says_why_and_offers_a_retry(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat(state="failed", error="qwen3-8b did not answer within 120 s", advice="Retry")
    html = page.get(f"/chats/{chat.id}/").content.decode()
    assert "qwen3-8b did not answer within 120 s. Retry" in html
    generation = Generation.objects.get(message__chat=chat)
    assert f'action="/generations/{generation.id}/retry/"' in html
    # The text so far stays.
    assert "Answer <em>0</em>" in html


def test_retry_goes_on(page: Client, fragment: Client, make_chat: MakeChat) -> None:
    chat = make_chat(state="failed")
    generation = Generation.objects.get(message__chat=chat)
    html = fragment.post(f"/generations/{generation.id}/retry/").content.decode()
    assert f'data-stream="/generations/{generation.id}/events/"' in html
    assert "Answer <em>0</em>" in html
    generation.refresh_from_db()
    assert generation.is_active
    assert page.post(f"/generations/{generation.id}/retry/")["Location"] == f"/chats/{chat.id}/"


def test_stop_keeps_the_text(page: Client, fragment: Client, make_chat: MakeChat) -> None:
    chat = make_chat(state="queued")
    generation = Generation.objects.get(message__chat=chat)
    assert fragment.post(f"/generations/{generation.id}/stop/").status_code == 204
    assert page.post(f"/generations/{generation.id}/stop/")["Location"] == f"/chats/{chat.id}/"
    html = page.get(f"/chats/{chat.id}/").content.decode()
    assert "Stopped by you" in html
    assert "Answer <em>0</em>" in html


def test_deleting_asks_first_and_names_the_chat(page: Client, fragment: Client, make_chat: MakeChat) -> None:
    chat = make_chat()
    assert "Delete “Question 0”?" in page.get(f"/chats/{chat.id}/delete/").content.decode()
    dialog = fragment.get(f"/chats/{chat.id}/delete/").content.decode()
    assert dialog.startswith("<dialog")
    assert page.post(f"/chats/{chat.id}/delete/")["Location"] == "/"
    assert "Deleted “Question 0”" in page.get("/").content.decode()
    assert page.get(f"/chats/{chat.id}/").status_code == 404


def test_the_sidebar_marks_the_open_chat_and_those_that_answer(page: Client, make_chat: MakeChat) -> None:
    done, running = make_chat(), make_chat(state="running")
    html = page.get(f"/chats/{done.id}/").content.decode()
    row, other = (html.split(f'data-chat="{chat.id}"')[1].split("</li>")[0] for chat in (done, running))
    assert "aria-current" in row
    assert "is answering" not in row
    assert "is answering" in other


def test_every_list_has_an_empty_state(page: Client) -> None:
    assert "No chats yet" in page.get("/").content.decode()
    assert "No chats yet" in page.get("/chats/").content.decode()
    assert "No keys yet" in page.get("/settings/").content.decode()


def test_all_chats_are_listed_page_by_page(page: Client, user: User) -> None:
    Chat.objects.bulk_create(Chat(user=user, title=f"Chat {i}") for i in range(70))
    html = page.get("/chats/").content.decode()
    assert "1 of 2" in html
    assert 'href="?page=2"' in html
    assert 'href="/chats/"' in html


@pytest.mark.parametrize("count", [1, 20])
def test_a_page_costs_the_same_queries_whatever_it_shows(
    page: Client, make_chat: MakeChat, count: int, django_assert_num_queries: Any
) -> None:
    chat = make_chat(count)
    for _ in range(count):
        make_chat()
    page.get("/")
    # Session and user; the chats of the sidebar; the chat, its messages, their files and siblings, the draft;
    # what the gauge shows.
    with django_assert_num_queries(9):
        page.get(f"/chats/{chat.id}/")
    # And the last answer's model instead of the chat.
    with django_assert_num_queries(5):
        page.get("/")
    # Keys, and what was used today.
    with django_assert_num_queries(5):
        page.get("/settings/")


def test_the_page_shows_a_model_that_starts_and_asks_until_it_is_ready(
    page: Client, fragment: Client, models: list[ModelInfo]
) -> None:
    models[:] = [model("smollm2", "starting", eta_s=40.0)]
    html = page.get("/").content.decode()
    assert "Starting Smollm2, about 40 s" in html
    assert "every 2s" in html
    have = html.split("?have=")[1][:12]
    models[:] = [model("smollm2")]
    html = fragment.get(f"/models/state/?have={have}&model=smollm2").content.decode()
    assert "every" not in html
    assert "<select" not in html
    assert "Smollm2 is ready" in html


def test_the_picker_follows_the_models_that_come(page: Client, fragment: Client, models: list[ModelInfo]) -> None:
    models.clear()
    html = page.get("/").content.decode()
    assert "No models yet" in html
    models.append(model("smollm2"))
    html = fragment.get(f"/models/state/?have={html.split('?have=')[1][:12]}&model=").content.decode()
    assert '<option value="smollm2" selected>' in html


def test_a_chat_goes_on_with_its_model(page: Client, make_chat: MakeChat, models: list[ModelInfo]) -> None:
    models.reverse()
    assert '<option value="qwen3-8b" selected>' in page.get(f"/chats/{make_chat().id}/").content.decode()


def test_questions_to_go_on_with_are_buttons_under_the_newest_answer(
    page: Client, fragment: Client, make_chat: Callable[..., Chat]
) -> None:
    chat = make_chat(2)
    first, newest = Generation.objects.filter(message__chat=chat).order_by("message__position")
    for generation in (first, newest):
        Afterword.objects.create(
            generation=generation, wants=["follow_ups"], state="done", follow_ups=["Why <b>?", "Who?"]
        )
    text = page.get(f"/chats/{chat.pk}/").content.decode()
    assert text.count('id="follow-ups"') == 1
    assert 'value="Why &lt;b&gt;?"' in text
    (message_id,) = re.findall(r'name="message_id" value="([0-9a-f-]{36})"', text.split('id="follow-ups"')[1])[:1]
    form = {"message_id": message_id, "after": str(newest.message_id), "model": "qwen3-8b", "text": "Who?"}
    assert page.post(f"/chats/{chat.pk}/messages/", form).status_code == 302
    # The second of two clicks changes nothing.
    assert page.post(f"/chats/{chat.pk}/messages/", form | {"text": "Why?"}).status_code == 302
    assert list(chat.messages.filter(role="user").values_list("text", flat=True)) == [
        "Question 0",
        "Question 1",
        "Who?",
    ]
    assert 'id="follow-ups"' not in page.get(f"/chats/{chat.pk}/").content.decode()


def test_a_page_follows_an_afterword_that_is_still_to_come(page: Client, make_chat: Callable[..., Chat]) -> None:
    chat = make_chat(2)
    generation = Generation.objects.filter(message__chat=chat).latest("message__position")
    afterword = Afterword.objects.create(generation=generation, wants=["titles"])
    assert f"/generations/{generation.pk}/events/" in page.get(f"/chats/{chat.pk}/").content.decode()
    afterword.state = "done"
    afterword.save()
    assert "/events/" not in page.get(f"/chats/{chat.pk}/").content.decode()
