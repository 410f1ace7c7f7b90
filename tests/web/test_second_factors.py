"""Second factors, and login with another server."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time
from django.test import Client

from aiia_platform.accounts.models import User
from aiia_platform.options.models import StoredOption
from tests.fakes.oidc import Issuer, issuer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]

PASSWORD = "correct horse battery"


def code(secret: str) -> str:
    """What an authenticator app shows now."""
    return str(format_hotp_value(hotp_value(secret, next(iter(yield_hotp_counters_from_time())))))


@pytest.fixture
def secret(user: User) -> str:
    """Of the user's authenticator app, which they set up."""
    client = Client()
    client.post("/accounts/login/", {"login": "ada", "password": PASSWORD})
    # The login was just now, and yet it asks again: whoever sits down at an open page gets no further.
    assert client.get("/accounts/2fa/totp/activate/")["Location"].startswith("/accounts/reauthenticate/")
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    html = client.get("/accounts/2fa/totp/activate/").content.decode()
    secret = html.split('id="totp-secret"')[1].split(">")[1].split("<")[0]
    client.post("/accounts/2fa/totp/activate/", {"code": code(secret)})
    assert user.authenticator_set.filter(type=Authenticator.Type.TOTP).exists()
    return secret


def test_the_secret_is_sealed(secret: str) -> None:
    assert secret not in str(Authenticator.objects.get(type=Authenticator.Type.TOTP).data)


def test_a_login_wants_the_second_factor(secret: str) -> None:
    client = Client()
    response = client.post("/accounts/login/", {"login": "ada", "password": PASSWORD}, follow=True)
    assert "Second factor" in response.content.decode()
    assert client.get("/").status_code == 302
    client.post("/accounts/2fa/authenticate/", {"code": "000000"})
    assert client.get("/").status_code == 302


def test_a_recovery_code_lets_in_once(secret: str, user: User) -> None:
    codes = user.authenticator_set.get(type=Authenticator.Type.RECOVERY_CODES).wrap().get_unused_codes()
    for expected in (200, 302):
        client = Client()
        client.post("/accounts/login/", {"login": "ada", "password": PASSWORD})
        client.post("/accounts/2fa/authenticate/", {"code": codes[0]})
        assert client.get("/").status_code == expected


def test_removing_a_factor_wants_the_password_again(secret: str, page: Client) -> None:
    # `page` came in without a password.
    response = page.post("/accounts/2fa/totp/deactivate/", follow=True)
    assert "Confirm that it is you" in response.content.decode()


@pytest.fixture
def sso(db: None) -> Iterator[Issuer]:
    with issuer() as fake:
        StoredOption.change(
            {
                "oidc_issuer": fake.url,
                "oidc_name": "Company",
                "oidc_client_id": "aiia",
                "oidc_client_secret": "sesame",
            }
        )
        yield fake


def come_in(client: Client) -> None:
    """To the issuer and back."""
    there = client.get("/accounts/oidc/sso/login/")["Location"]
    back = urlsplit(httpx.get(there).headers["Location"])
    client.get(f"{back.path}?{back.query}", follow=True)


def test_the_issuer_lets_in(sso: Issuer, user: User) -> None:
    client = Client()
    assert "Company" in client.get("/accounts/login/").content.decode()
    come_in(client)
    grace = User.objects.get(username="grace")
    assert client.get("/").status_code == 200
    assert not grace.is_superuser
    assert not grace.has_usable_password()
    assert sso.asked["code_challenge_method"] == "S256"


def test_who_comes_first_by_single_sign_on_is_administrator(sso: Issuer) -> None:
    come_in(Client())
    assert User.objects.get().is_superuser


def test_single_sign_on_respects_how_registration_is_set(sso: Issuer, user: User) -> None:
    StoredOption.change({"signup": "approval"})
    client = Client()
    come_in(client)
    assert User.objects.get(username="grace").is_waiting
    assert client.get("/").status_code == 302
    User.objects.filter(username="grace").delete()
    StoredOption.change({"signup": "closed"})
    come_in(Client())
    assert not User.objects.filter(username="grace").exists()


@pytest.mark.parametrize("is_verified", [True, False])
def test_only_an_address_that_the_issuer_confirmed_connects(sso: Issuer, user: User, is_verified: bool) -> None:
    user.vouch()
    sso.person |= {"email": "ada@example.org", "email_verified": is_verified}
    client = Client()
    come_in(client)
    assert user.socialaccount_set.exists() == is_verified
    assert client.get("/").status_code == (200 if is_verified else 302)


def test_an_issuer_that_is_away_is_said_to_be(db: None) -> None:
    StoredOption.change({"oidc_issuer": "http://127.0.0.1:9", "oidc_client_id": "aiia"})
    response = Client().get("/accounts/oidc/sso/login/")
    assert response.status_code == 502
    assert "Single sign-on does not answer" in response.content.decode()


def test_without_an_issuer_there_is_no_single_sign_on(db: None) -> None:
    assert Client().get("/accounts/oidc/sso/login/").status_code == 404
