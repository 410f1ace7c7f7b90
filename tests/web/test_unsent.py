"""What a page sends after its session ended comes back as a draft, to nobody else."""

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat, Draft, Message
from aiia_web import unsent

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]

MakeChat = Callable[..., Chat]
PASSWORD = "correct horse battery"
OURS = {"Origin": "http://testserver"}


@pytest.fixture
def browser(user: User) -> Client:
    """One that sends its CSRF tokens, signed in."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client


def _form(browser: Client, address: str = "/") -> tuple[str, dict[str, str]]:
    """The composer of a page: its address and its fields."""
    html = browser.get(address).content.decode()
    form = html[html.index('<form id="composer"') :]
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form[: form.index("</form>")]))
    found = re.search(r'action="([^"]+)"', form)
    assert found
    return found[1], fields | {"model": "demo", "text": "Three days in Rome?"}


def _log_in(browser: Client, login: str = "ada") -> Any:
    html = browser.get("/accounts/login/").content.decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', html)
    assert token
    body = {"login": login, "password": PASSWORD, "csrfmiddlewaretoken": token[1]}
    return browser.post("/accounts/login/", body)


def _text(browser: Client, address: str = "/") -> str:
    found = re.search(r"<textarea[^>]*>([^<]*)</textarea>", browser.get(address).content.decode())
    return found[1] if found else ""


@pytest.mark.parametrize("loss", ["session", "cookies"])
def test_it_is_in_the_box_again_after_the_login_and_is_not_sent(browser: Client, loss: str) -> None:
    address, fields = _form(browser)
    # An expired session leaves the token; a browser that lost its cookies fails the check of the token.
    browser.cookies.pop("sessionid")
    if loss == "cookies":
        browser.cookies.clear()
    answer = browser.post(address, fields, headers=OURS)
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/login/?next=/")
    assert "Your message is in the box again" in browser.get("/accounts/login/").content.decode()
    assert _log_in(browser).status_code == 302
    assert _text(browser) == "Three days in Rome?"
    assert not Message.objects.exists()


def test_a_page_that_is_out_of_date_keeps_it_too(browser: Client, user: User) -> None:
    chat = Chat.open(user, uuid.uuid4(), {"title": "Rome"})
    address, fields = _form(browser, f"/chats/{chat.pk}/")
    Draft.keep(user, chat.pk, "Typed on the phone")
    answer = browser.post(address, fields | {"csrfmiddlewaretoken": "x" * 64}, headers=OURS)
    assert answer["Location"] == f"/chats/{chat.pk}/"
    assert _text(browser, f"/chats/{chat.pk}/") == "Typed on the phone\n\nThree days in Rome?"
    assert not Message.objects.exists()


@pytest.mark.parametrize("loss", ["session", "cookies"])
def test_a_changed_message_is_in_the_box_of_its_chat(browser: Client, make_chat: MakeChat, loss: str) -> None:
    chat = make_chat()
    question = Message.objects.get(chat=chat, role="user")
    address = f"/messages/{question.pk}/edit/"
    html = browser.get(address).content.decode()
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', html))
    browser.cookies.pop("sessionid")
    if loss == "cookies":
        browser.cookies.clear()
    answer = browser.post(address, fields | {"model": "demo", "text": "Four days in Rome?"}, headers=OURS)
    assert answer["Location"] == f"/accounts/login/?next=/chats/{chat.pk}/"
    _log_in(browser)
    assert _text(browser, f"/chats/{chat.pk}/") == "Four days in Rome?"
    assert Message.objects.filter(chat=chat).count() == 2


def test_nobody_else_gets_it(browser: Client, user: User, stranger: User) -> None:
    chat = Chat.open(user, uuid.uuid4(), {"title": "Rome"})
    for page in ("/", f"/chats/{chat.pk}/"):
        browser.force_login(user)
        address, fields = _form(browser, page)
        browser.cookies.pop("sessionid")
        assert browser.post(address, fields, headers=OURS).status_code == 302
        _log_in(browser, "eve")
        assert _text(browser) == ""
        # Forgotten, not only hidden.
        browser.cookies.pop("sessionid")
    assert not Draft.objects.exists()


def test_another_site_puts_nothing_into_the_box(browser: Client, user: User, stranger: User) -> None:
    address, fields = _form(browser)
    chat_id = uuid.UUID(address.split("/")[2])
    forged = {**fields, "owner": unsent.owner(stranger, chat_id)}
    elsewhere = f"/chats/{uuid.uuid4()}/messages/"
    browser.cookies.clear()
    for where, body, headers in (
        (address, fields, {"Origin": "https://evil.example"}),
        (address, fields, {}),
        (address, {**fields, "owner": "eyJ1IjoxfQ:forged"}, OURS),
        (elsewhere, fields, OURS),
        (address, {**fields, "text": "  "}, OURS),
    ):
        assert browser.post(where, body, headers=headers).status_code == 403
    # Somebody's own form, sent by somebody else's browser, stays with whom it was made for.
    assert browser.post(address, forged, headers=OURS).status_code == 302
    _log_in(browser)
    assert not Draft.objects.exists()


def test_it_is_bounded_in_time_size_and_number(browser: Client, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    browser.cookies.clear()
    for _ in range(unsent.MAX_CHATS + 3):
        chat_id = uuid.uuid4()
        body = {"text": "x" * 200_001, "owner": unsent.owner(user, chat_id)}
        assert browser.post(f"/chats/{chat_id}/messages/", body, headers=OURS).status_code == 302
    found = browser.session["unsent"]
    assert len(found) == unsent.MAX_CHATS
    assert {len(kept["text"]) for kept in found.values()} == {200_000}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    _log_in(browser)
    assert not Draft.objects.exists()
