"""Coming in: registration in its modes, addresses confirmed by mail, forgotten passwords."""

import re

import pytest
from django.core import mail
from django.test import Client

from aiia_platform.accounts.models import User
from aiia_platform.options.models import StoredOption

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]

PASSWORD = "correct horse battery"
FORM = {"username": "bob", "email": "bob@example.org", "password1": PASSWORD}


def link() -> str:
    """The path of the link in the last mail."""
    found = re.search(r"http://testserver(/\S+)", str(mail.outbox[-1].body))
    assert found
    return found[1]


def test_an_address_is_confirmed_by_mail(db: None) -> None:
    client = Client()
    client.post("/accounts/signup/", FORM)
    assert mail.outbox[0].to == ["bob@example.org"]
    assert "Confirm" in mail.outbox[0].subject
    assert "Is bob@example.org your address?" in client.get(link()).content.decode()
    client.post(link())
    assert User.objects.get().emailaddress_set.get().verified
    assert "This link is no longer good" in client.get("/accounts/confirm-email/nonsense/").content.decode()


def test_an_address_can_be_what_lets_in(user: User) -> None:
    StoredOption.change({"email_verification": "mandatory"})
    client = Client()
    html = client.post("/accounts/signup/", {**FORM, "email": ""}).content.decode()
    assert "Give an email address" in html
    client.post("/accounts/signup/", FORM)
    assert client.get("/").status_code == 302
    client.post(link())
    client.post("/accounts/login/", {"login": "bob", "password": PASSWORD})
    assert client.get("/").status_code == 200


def test_an_address_need_not_be_checked(user: User) -> None:
    StoredOption.change({"email_verification": "none"})
    Client().post("/accounts/signup/", FORM)
    assert mail.outbox == []


def test_closed_registration_lets_only_the_first_one_in(db: None) -> None:
    StoredOption.change({"signup": "closed"})
    assert Client().post("/accounts/signup/", FORM).status_code == 302
    assert User.objects.get().is_superuser
    response = Client().get("/accounts/signup/")
    assert "Registration is closed" in response.content.decode()
    Client().post("/accounts/signup/", {**FORM, "username": "eve", "email": "eve@example.org"})
    assert User.objects.count() == 1
    assert "Register" not in Client().get("/accounts/login/").content.decode()


def test_accounts_wait_for_approval(user: User) -> None:
    StoredOption.change({"signup": "approval"})
    client = Client()
    response = client.post("/accounts/signup/", FORM, follow=True)
    assert "An administrator approves new accounts" in response.content.decode()
    bob = User.objects.get(username="bob")
    assert bob.is_waiting
    assert client.get("/").status_code == 302
    bob.approve()
    client.post("/accounts/login/", {"login": "bob", "password": PASSWORD})
    assert client.get("/").status_code == 200


def test_a_forgotten_password_is_replaced(user: User) -> None:
    client = Client()
    client.post("/accounts/password/reset/", {"email": "ada@example.org"})
    sent = link()
    address = client.get(sent, follow=True).redirect_chain[-1][0]
    form = {"password1": "another horse battery", "password2": "another horse battery"}
    assert client.post(address, form, follow=True).status_code == 200
    user.refresh_from_db()
    assert user.check_password("another horse battery")
    assert "This link is no longer good" in client.get(sent).content.decode()
    assert "password" in mail.outbox[-1].subject.lower()


def test_a_reset_does_not_tell_who_has_an_account(user: User) -> None:
    known = Client().post("/accounts/password/reset/", {"email": "ada@example.org"})
    unknown = Client().post("/accounts/password/reset/", {"email": "nobody@example.org"})
    assert (known.status_code, known["Location"]) == (unknown.status_code, unknown["Location"])
    assert "There is none" in str(mail.outbox[-1].body)


def test_an_address_is_changed_after_it_was_confirmed(page: Client, user: User) -> None:
    user.vouch()
    assert "Email address" in page.get("/accounts/email/").content.decode()
    page.post("/accounts/email/", {"email": "new@example.org", "action_add": "1"})
    user.refresh_from_db()
    assert user.email == "ada@example.org"
    page.post(link())
    user.refresh_from_db()
    assert user.email == "new@example.org"
