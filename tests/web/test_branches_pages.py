"""Branches, chat menu and search in a browser without scripts."""

import re
import uuid
from collections.abc import Callable

import pytest
from django.test import Client

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat, Draft, Message
from aiia_platform.generations.models import Generation

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]
MakeChat = Callable[..., Chat]


def _finish(chat: Chat, text: str) -> None:
    active = Generation.objects.active().filter(message__chat=chat)
    Message.objects.filter(generation__in=active).update(text=text)
    active.update(state="done")


def _html(page: Client, address: str) -> str:
    response = page.get(address)
    assert response.status_code == 200
    return response.content.decode()


def test_another_wording_is_one_arrow_away_from_the_old_one(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat()
    question = chat.messages.get(role="user")
    html = _html(page, f"/messages/{question.id}/edit/")
    assert ">Question 0</textarea>" in html
    form = {"text": "Better", "model": "qwen3-8b", "message_id": str(uuid.uuid4())}
    response = page.post(f"/messages/{question.id}/edit/", form)
    assert response.status_code == 302
    assert page.post(f"/messages/{question.id}/edit/", form)["Location"] == response["Location"]
    _finish(chat, "New answer")
    html = _html(page, f"/chats/{chat.id}/")
    assert "New answer" in html
    assert "2 / 2" in html
    older = re.search(rf'href="(\?branch={question.id})', html)
    assert older
    html = _html(page, f"/chats/{chat.id}/{older[1]}")
    assert "Answer <em>0</em>" in html
    assert "1 / 2" in html


def test_regenerating_with_two_models_side_by_side_and_keeping_one(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat()
    answer = chat.messages.get(role="assistant")
    assert 'name="beside"' in _html(page, f"/messages/{answer.id}/again/")
    form = {"answer_id": str(uuid.uuid4()), "model": "qwen3-8b", "beside": "smollm2-135m", "count": "1"}
    assert page.post(f"/messages/{answer.id}/again/", form).status_code == 302
    _finish(chat, "Other answer")
    html = _html(page, f"/chats/{chat.id}/")
    assert html.count("Keep this one") == 2
    kept = chat.messages.filter(generation__model="smollm2-135m").get()
    assert page.post(f"/messages/{kept.id}/choose/").status_code == 302
    html = _html(page, f"/chats/{chat.id}/")
    assert "Keep this one" not in html
    assert "3 / 3" in html


def test_a_stale_page_does_not_overwrite_an_answer(page: Client, make_chat: MakeChat) -> None:
    answer = make_chat().messages.get(role="assistant")
    answer.edit("From the phone", version=1)
    response = page.post(f"/messages/{answer.id}/edit/", {"text": "From the stale tab", "version": "1"})
    assert response.status_code == 409
    html = response.content.decode()
    assert "From the phone" in html
    assert ">From the stale tab</textarea>" in html
    page.post(f"/messages/{answer.id}/delete/", {"version": "1"})
    answer.refresh_from_db()
    assert (answer.text, answer.deleted_at) == ("From the phone", None)
    page.post(f"/messages/{answer.id}/edit/", {"text": "Now knowingly", "version": "2"})
    answer.refresh_from_db()
    assert answer.text == "Now knowingly"


def test_a_message_sent_from_a_stale_page_begins_a_branch(page: Client, make_chat: MakeChat, user: User) -> None:
    chat = make_chat()
    html = _html(page, f"/chats/{chat.id}/")
    seen = re.search(r'name="after" value="([^"]+)"', html)
    assert seen
    Chat.send(user=user, chat_id=chat.id, message_id=uuid.uuid4(), text="From the phone", model="qwen3-8b")
    _finish(chat, "Phone answer")
    form = {"text": "From the tab", "model": "qwen3-8b", "message_id": str(uuid.uuid4()), "after": seen[1]}
    assert page.post(f"/chats/{chat.id}/messages/", form).status_code == 302
    html = _html(page, f"/chats/{chat.id}/")
    assert "From the tab" in html
    assert "2 / 2" in html
    assert chat.messages.filter(text="From the phone").exists()


def test_deleting_a_message_leaves_its_place_and_can_be_undone(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat(2)
    first = chat.messages.filter(role="assistant")[0]
    page.post(f"/messages/{first.id}/delete/", {"version": "1"})
    html = _html(page, f"/chats/{chat.id}/")
    assert "Message deleted" in html
    assert "Answer <em>0</em>" not in html
    assert "Answer <em>1</em>" in html
    page.post(f"/messages/{first.id}/restore/")
    assert "Answer <em>0</em>" in _html(page, f"/chats/{chat.id}/")


def test_fork_and_duplicate(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat(2)
    first = chat.messages.filter(role="assistant")[0]
    html = _html(page, page.post(f"/messages/{first.id}/fork/")["Location"])
    assert "Question 0" in html
    assert "Question 1" not in html
    assert "Question 1" in _html(page, page.post(f"/chats/{chat.id}/duplicate/")["Location"])
    assert Chat.objects.count() == 3


def test_settings_of_a_chat(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat()
    form = {
        "version": "1",
        "title": "Rome",
        "tags": "travel, italy",
        "system_prompt": "Be brief",
        "temperature": "0.3",
        "stop": "END",
        "strategy": "last",
        "messages": "4",
    }
    assert "System prompt" in _html(page, f"/chats/{chat.id}/edit/")
    assert page.post(f"/chats/{chat.id}/edit/", form).status_code == 302
    chat.refresh_from_db()
    assert (chat.title, chat.tags, chat.system_prompt) == ("Rome", ["travel", "italy"], "Be brief")
    assert chat.params == {"temperature": 0.3, "stop": ["END"]}
    assert chat.context == {"strategy": "last", "messages": 4}
    response = page.post(f"/chats/{chat.id}/edit/", form | {"title": "Paris"})
    assert response.status_code == 409
    assert 'value="Paris"' in response.content.decode()
    response = page.post(f"/chats/{chat.id}/edit/", form | {"version": "2", "temperature": "9"})
    assert response.status_code == 422
    assert "A number from 0 to 2" in response.content.decode()


def test_pin_archive_delete_and_undo(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat()
    page.post(f"/chats/{chat.id}/pin/")
    assert ">Pinned</h2>" in _html(page, "/")
    page.post(f"/chats/{chat.id}/archive/")
    assert f'data-chat="{chat.id}"' not in _html(page, "/")
    assert "Question 0" in _html(page, "/chats/?show=archived")
    page.post(f"/chats/{chat.id}/archive/")
    page.post(f"/chats/{chat.id}/delete/")
    assert f'action="/chats/{chat.id}/restore/"' in _html(page, "/")
    assert page.get(f"/chats/{chat.id}/").status_code == 404
    page.post(f"/chats/{chat.id}/restore/")
    assert page.get(f"/chats/{chat.id}/").status_code == 200


def test_several_chats_at_once(page: Client, make_chat: MakeChat, user: User, stranger: User) -> None:
    mine, other = [make_chat(), make_chat()], make_chat(owner=stranger)
    ids = [str(chat.id) for chat in (*mine, other)]
    page.post("/chats/bulk/", {"verb": "delete", "chat": ids})
    assert not Chat.objects.of(user).exists()
    assert Chat.objects.of(stranger).exists()
    page.post("/chats/bulk/", {"verb": "restore", "chat": ids, "show": "deleted"})
    assert Chat.objects.of(user).count() == 2
    page.post("/chats/bulk/", {"verb": "archive", "chat": ids})
    assert not Chat.objects.listed(user).exists()


def test_a_temporary_chat_is_in_no_list_and_no_search(page: Client) -> None:
    assert 'name="temporary"' in _html(page, "/?temporary")
    chat_id = uuid.uuid4()
    form = {"text": "Secret plans", "model": "qwen3-8b", "message_id": str(uuid.uuid4()), "temporary": "1"}
    page.post(f"/chats/{chat_id}/messages/", form)
    assert "Secret plans" in _html(page, f"/chats/{chat_id}/")
    assert "Secret plans" not in _html(page, "/")
    assert "Nothing found" in _html(page, "/search/?q=secret")


def test_a_draft_is_kept_until_it_is_sent(page: Client, make_chat: MakeChat) -> None:
    chat, new = make_chat(), uuid.uuid4()
    page.post(f"/chats/{chat.id}/draft/", {"text": "Half a tho"})
    page.post(f"/chats/{new}/draft/", {"text": "A new beginn"})
    assert ">Half a tho</textarea>" in _html(page, f"/chats/{chat.id}/")
    html = _html(page, "/")
    assert ">A new beginn</textarea>" in html
    assert f"/chats/{new}/messages/" in html
    form = {"text": "A new beginning", "model": "qwen3-8b", "message_id": str(uuid.uuid4())}
    page.post(f"/chats/{new}/messages/", form)
    assert Draft.objects.count() == 1
    assert page.post(f"/chats/{chat.id}/draft/", {"text": ""}).status_code == 204
    assert not Draft.objects.exists()


def test_a_long_chat_shows_its_end_and_the_rest_on_demand(page: Client, make_chat: MakeChat) -> None:
    chat = make_chat(40)
    html = _html(page, f"/chats/{chat.id}/")
    assert html.count("<article") == 50
    assert "Question 15" in html
    assert "Question 14<" not in html
    older = re.search(r'href="(\?branch=[^"]+)"[^>]*>Older messages', html)
    assert older
    html = _html(page, f"/chats/{chat.id}/{older[1].replace('&amp;', '&').split('#')[0]}")
    assert html.count("<article") == 30
    assert "Question 14<" in html
    assert "Newer messages" in html


def test_search_finds_words_shows_where_and_escapes(page: Client, user: User, make_chat: MakeChat) -> None:
    Chat.send(user=user, chat_id=uuid.uuid4(), message_id=uuid.uuid4(), text="A <b>zebra</b> crosses", model="qwen3-8b")
    html = _html(page, "/search/?q=zeb")
    assert "<mark>zebra</mark>" in html
    assert "<b>" not in html
    address = re.search(r'href="(/chats/[^"]+upto[^"]+)"', html)
    assert address
    assert "zebra" in _html(page, address[1].replace("&amp;", "&").split("#")[0])
    assert "<mark>" not in _html(page, "/search/?q=zebra&model=other")
    assert "<mark>" not in _html(page, "/search/?q=zebra&until=2000-01-01")
    assert "<mark>" in _html(page, "/search/?q=zebra&since=2000-01-01")
    assert page.get("/search/?q=%00%26|!:*'()&since=x").status_code == 200


def test_search_sees_nothing_of_others(page: Client, stranger: User, make_chat: MakeChat) -> None:
    make_chat(owner=stranger)
    assert "Nothing found" in _html(page, "/search/?q=question")


def test_what_was_sent_is_shown_word_for_word(page: Client, make_chat: MakeChat) -> None:
    from aiia_platform.generations.models import Sent

    answer = make_chat().messages.get(role="assistant")
    sent = [{"role": "system", "content": "Be <i>brief</i>"}, {"role": "user", "content": "Question 0"}]
    Sent.objects.create(generation=answer.generation, messages=sent, limit=4096)
    html = _html(page, f"/messages/{answer.id}/sent/")
    assert "Be &lt;i&gt;brief&lt;/i&gt;" in html
    assert "of 4,096" in html
