import hashlib
import io
import sys

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from aiia_platform.accounts.models import ApiKey, User

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

PASSWORD = "correct horse battery"
INTERNAL = {"Authorization": "Bearer internal-token-of-the-tests"}


def sign_up(**fields: str) -> User | None:
    Client().post("/accounts/signup/", {"password1": PASSWORD, **fields})
    return User.objects.last()


def test_first_user_is_the_administrator() -> None:
    first = sign_up(email="ada@example.org")
    second = sign_up(email="bob@example.org")
    assert first
    assert first.is_superuser
    assert second
    assert second.email == "bob@example.org"
    assert not second.is_superuser


def test_username_alone_is_enough() -> None:
    user = sign_up(username="ada")
    assert user
    assert user.email is None
    assert sign_up(username="bob") != user


def test_neither_username_nor_email_is_not() -> None:
    assert sign_up() is None


@pytest.mark.parametrize("login", ["ada@example.org", "ada"])
def test_log_in_by_email_or_username(login: str) -> None:
    sign_up(email="ada@example.org", username="ada")
    client = Client()
    client.post("/accounts/login/", {"login": login, "password": PASSWORD})
    assert client.get("/").status_code == 200


def test_create_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD + "\n"))
    call_command("create_user", "--email", "Ada@example.org", "--password-stdin", "--admin")
    user = User.objects.get(email="ada@example.org")
    assert user.is_superuser
    assert user.check_password(PASSWORD)
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD + "\n"))
    with pytest.raises(CommandError, match="exists"):
        call_command("create_user", "--email", "ada@example.org", "--password-stdin")


def test_create_user_refuses_a_weak_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("12345\n"))
    with pytest.raises(CommandError, match="too short"):
        call_command("create_user", "--email", "ada@example.org", "--password-stdin")


def test_create_token_prints_the_key_alone(user: User) -> None:
    out = io.StringIO()
    call_command("create_token", "--email", "ada@example.org", "--name", "script", stdout=out)
    secret = out.getvalue().strip()
    assert secret.startswith("sk-")
    assert ApiKey.objects.get().sha256 == hashlib.sha256(secret.encode()).hexdigest()


def verify(secret: str, headers: dict[str, str] = INTERNAL) -> int:
    body = {"key_sha256": hashlib.sha256(secret.encode()).hexdigest()}
    return Client().post("/internal/keys/verify", body, content_type="application/json", headers=headers).status_code


def test_keys_are_verified_until_revoked(user: User) -> None:
    key, secret = ApiKey.create(user, "laptop")
    assert verify(secret) == 200
    key.refresh_from_db()
    assert key.last_used_at
    assert verify("sk-wrong") == 404
    key.revoke()
    assert verify(secret) == 404


def test_keys_are_verified_for_the_gateway_only(user: User) -> None:
    _, secret = ApiKey.create(user, "laptop")
    assert verify(secret, {}) == 401
    assert verify(secret, {"Authorization": "Bearer wrong"}) == 401


def test_malformed_question_for_a_key_gets_problem_details() -> None:
    response = Client().post("/internal/keys/verify", "[]", content_type="application/json", headers=INTERNAL)
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
