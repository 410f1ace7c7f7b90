"""Settings of the installation: where each value comes from, and what it does at once."""

import base64
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import send_mail
from django.test import Client

from aiia_platform.accounts.models import User
from aiia_platform.config import config
from aiia_platform.options.models import StoredOption, all_settings, current
from aiia_platform.options.registry import OPTIONS, check_environment
from tests.fakes.gateway import free_port
from tests.fakes.smtp import postbox

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


def setting(name: str) -> list[tuple[str, Any]]:
    return next(s.origins for s in all_settings() if s.option.name == name)


def test_environment_wins_over_page_and_page_over_default(monkeypatch: pytest.MonkeyPatch, user: User) -> None:
    assert setting("api_rate") == [("default", 600)]
    StoredOption.change({"api_rate": 60}, user)
    assert setting("api_rate") == [("default", 600), ("page", 60)]
    monkeypatch.setenv("AIIA_API_RATE", "30")
    assert setting("api_rate") == [("default", 600), ("page", 60), ("environment", 30)]
    assert current("api_rate") == 30
    monkeypatch.delenv("AIIA_API_RATE")
    StoredOption.change({"api_rate": None}, user)
    assert current("api_rate") == 600


def test_another_process_sees_a_change_soon(user: User) -> None:
    assert current("signup") == "open"
    # As another process does it.
    StoredOption.objects.create(name="signup", value="closed")
    assert current("signup") == "open"
    StoredOption.forget()
    assert current("signup") == "closed"


def test_secrets_are_sealed_in_the_database(user: User) -> None:
    StoredOption.change({"smtp_password": "hunter2"}, user)
    assert "hunter2" not in str(StoredOption.objects.get().value)
    assert current("smtp_password") == "hunter2"


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    monkeypatch.setenv("AIIA_SMTP_PASSWORD_FILE", str(tmp_path / "password"))
    assert current("smtp_password") == "hunter2"


@pytest.mark.parametrize(("variable", "value"), [("AIIA_SIGNUP", "perhaps"), ("AIIA_API_RATE", "many")])
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ImproperlyConfigured, match=variable):
        check_environment()


def test_every_default_is_a_value_of_its_option() -> None:
    for option in OPTIONS.values():
        assert option.parse(str(option.default)) == option.default


def test_mail_goes_into_files_that_others_cannot_read(settings: Any, db: None) -> None:
    settings.EMAIL_BACKEND = "aiia_platform.mail.Backend"
    send_mail("Subject", "Text", None, ["ada@example.org"])
    folder = config().data_dir / "mail"
    assert folder.stat().st_mode & 0o077 == 0
    assert "From: aiia@localhost" in next(folder.iterdir()).read_text()
    assert mail.outbox == []


def test_mail_goes_to_the_smtp_server_that_is_set(settings: Any, user: User) -> None:
    settings.EMAIL_BACKEND = "aiia_platform.mail.Backend"
    with postbox() as box:
        StoredOption.change(
            {
                "mail": "smtp",
                "smtp_host": "127.0.0.1",
                "smtp_port": box.port,
                "smtp_security": "none",
                "smtp_user": "ada",
                "smtp_password": "hunter2",
                "mail_from": "aiia@example.org",
            },
            user,
        )
        assert send_mail("Subject", "Text", None, ["ada@example.org"]) == 1
    assert "From: aiia@example.org" in box.mails[0]
    assert base64.b64decode(box.logins[0].split()[-1]) == b"\0ada\0hunter2"


def test_mail_that_cannot_be_sent_breaks_no_page_and_is_said(settings: Any, user: User) -> None:
    settings.EMAIL_BACKEND = "aiia_platform.mail.Backend"
    StoredOption.change({"mail": "smtp", "smtp_host": "127.0.0.1", "smtp_port": free_port(), "smtp_security": "none"})
    form = {"username": "bob", "email": "bob@example.org", "password1": "correct horse battery"}
    client = Client()
    assert client.post("/accounts/signup/", form).status_code == 302
    assert "Mail could not be sent" in client.get("/settings/").content.decode()
    assert User.objects.filter(username="bob").exists()
