"""Registration, login and the settings page."""

import hashlib
import io
import re
from decimal import Decimal
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.utils import timezone
from PIL import Image

from aiia_platform.accounts.models import ApiKey, Role, User
from aiia_platform.usage.models import UsageRecord

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]


@pytest.mark.parametrize("name", [{"username": "ada"}, {"email": "ada@example.org"}])
def test_a_name_or_an_address_is_enough_to_register(db: None, name: dict[str, str]) -> None:
    client = Client()
    assert "Register" in client.get("/accounts/signup/").content.decode()
    response = client.post("/accounts/signup/", {**name, "password1": "correct horse battery"})
    assert response["Location"] == "/"
    assert client.get("/").status_code == 200
    assert User.objects.get().is_superuser


def test_registration_says_what_is_missing(db: None) -> None:
    html = Client().post("/accounts/signup/", {"password1": "correct horse battery"}).content.decode()
    assert "Give an email address or a username." in html
    assert 'aria-invalid="true"' in html


@pytest.mark.parametrize("login", ["ada", "ada@example.org"])
def test_login_and_logout(user: User, login: str) -> None:
    client = Client()
    assert client.post("/accounts/login/", {"login": login, "password": "correct horse battery"})["Location"] == "/"
    assert client.post("/accounts/logout/").status_code == 302
    assert client.get("/").status_code == 302


def test_a_wrong_password_keeps_the_name(user: User) -> None:
    html = Client().post("/accounts/login/", {"login": "ada", "password": "wrong"}).content.decode()
    assert 'value="ada"' in html
    assert 'role="alert"' in html


def test_logins_are_limited(user: User, settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "logins"}}
    client = Client()
    tries = [client.post("/accounts/login/", {"login": f"ada{i}", "password": "wrong"}) for i in range(31)]
    assert [response.status_code for response in tries] == [200] * 30 + [429]
    assert "Wait a minute, then try again" in tries[-1].content.decode()
    # Another page is not.
    assert client.get("/accounts/signup/").status_code == 200


def test_guesses_at_one_account_are_limited(user: User, settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "guesses"}}
    client = Client()
    for _ in range(5):
        client.post("/accounts/login/", {"login": "ada", "password": "wrong"})
    html = client.post("/accounts/login/", {"login": "ada", "password": "correct horse battery"}).content.decode()
    assert "Too many failed login attempts" in html


def test_the_theme_is_kept(page: Client, user: User) -> None:
    assert page.post("/settings/", {"theme": "dark"}).status_code == 302
    assert 'data-theme="dark"' in page.get("/").content.decode()
    assert page.post("/settings/", {"theme": "pink"}).status_code == 422


def test_how_pages_look_is_kept(page: Client) -> None:
    page.post("/settings/", {"theme": "light", "text_size": "large", "width": "wide"})
    html = page.get("/chats/").content.decode()
    assert 'data-text="large"' in html
    assert 'data-width="wide"' in html


def picture(kind: str = "PNG", size: tuple[int, int] = (400, 300), **options: Any) -> SimpleUploadedFile:
    content = io.BytesIO()
    Image.new("RGB", size, "#cc0000").save(content, kind, **options)
    return SimpleUploadedFile("me.png", content.getvalue(), "image/png")


def test_a_picture_becomes_small_and_square_and_loses_its_metadata(page: Client, user: User) -> None:
    exif = Image.Exif()
    exif[0x9286] = "taken at home"
    form = {"picture": picture("JPEG", exif=exif), "bio": "I like <b>trains</b>"}
    assert page.post("/settings/profile/", form).status_code == 302
    response = page.get("/settings/avatar/")
    kept = Image.open(io.BytesIO(response.content))
    assert (kept.format, kept.size) == ("WEBP", (256, 256))
    assert b"home" not in response.content
    html = page.get("/settings/").content.decode()
    assert "I like &lt;b&gt;trains" in html
    assert "/settings/avatar/?v=" in html
    page.post("/settings/profile/", {"bio": "", "remove": "on"})
    assert page.get("/settings/avatar/").status_code == 404


@pytest.mark.parametrize(
    "content",
    [b"no picture", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", b"\x89PNG\r\n\x1a\n" + bytes(30)],
)
def test_what_is_no_picture_is_refused(page: Client, content: bytes) -> None:
    response = page.post("/settings/profile/", {"picture": SimpleUploadedFile("me.png", content), "bio": "Kept"})
    assert response.status_code == 422
    assert "This is no picture" in response.content.decode()
    assert "Kept" in response.content.decode()
    assert page.get("/settings/avatar/").status_code == 404


def test_a_picture_that_would_fill_the_memory_is_refused(page: Client) -> None:
    response = page.post("/settings/profile/", {"picture": picture(size=(20_000, 20_000))})
    assert response.status_code == 422


def test_what_new_chats_begin_with_is_kept(page: Client, user: User) -> None:
    form = {"model": "smollm2-135m", "system_prompt": "Be brief", "temperature": "0", "top_p": "", "max_tokens": "100"}
    assert page.post("/settings/models/", form).status_code == 302
    user.refresh_from_db()
    assert user.choices.llm_preferences == {
        "model": "smollm2-135m",
        "system_prompt": "Be brief",
        "temperature": 0,
        "max_tokens": 100,
    }
    assert "Be brief" in page.get("/settings/").content.decode()
    assert re.search(r'value="smollm2-135m"[^>]* selected', page.get("/").content.decode())
    assert page.post("/settings/models/", {"temperature": "9"}).status_code == 422
    assert page.post("/settings/models/", {"model": "unknown"}).status_code == 422


def test_what_a_model_may_write_after_answers_is_chosen_where_the_installation_lets_it(
    page: Client, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "A model gives" not in page.get("/settings/").content.decode()
    monkeypatch.setenv("AIIA_TITLES", "1")
    monkeypatch.setenv("AIIA_FOLLOW_UPS", "1")
    text = page.get("/settings/").content.decode()
    assert "A model gives chats their titles" in text
    assert "A model gives them tags" not in text
    assert page.post("/settings/models/", {"follow_ups": "on", "temporary": "on"}).status_code == 302
    user.refresh_from_db()
    assert user.choices.afterwords == {"titles": False, "follow_ups": True, "temporary": True}
    assert user.choices.wants_afterword("tags")


def test_a_role_may_have_no_keys(page: Client, user: User) -> None:
    user.role = Role.objects.create(name="Guests", may_use_api=False)
    user.save()
    assert page.post("/settings/keys/", {"name": "laptop", "scopes": ["read"]}).status_code == 403
    assert "Your role has no API access" in page.get("/settings/").content.decode()


def test_the_sidebar_stays_as_it_was_left(page: Client, fragment: Client) -> None:
    assert 'data-sidebar="open"' in page.get("/").content.decode()
    assert fragment.post("/settings/sidebar/", {"open": ""}).status_code == 204
    assert 'data-sidebar="closed"' in page.get("/").content.decode()
    assert page.post("/settings/sidebar/", {"open": "1"})["Location"] == "/"
    assert 'data-sidebar="open"' in page.get("/").content.decode()


def test_a_key_is_shown_once(page: Client, fragment: Client, user: User) -> None:
    response = page.post("/settings/keys/", {"name": "laptop", "scopes": ["models"], "days": "30"})
    secret = re.search(r"sk-[\w-]{20,}", response.content.decode())
    assert response.status_code == 201
    assert secret
    key = user.api_keys.get()
    assert key.scopes == ["models"]
    assert key.expires_at
    assert key.sha256 == hashlib.sha256(secret[0].encode()).hexdigest()
    assert secret[0] not in page.get("/settings/").content.decode()
    part = fragment.post("/settings/keys/", {"name": "desk", "scopes": ["read"]}).content.decode()
    assert "<html" not in part
    assert "sk-" in part


def test_a_key_needs_a_name(page: Client) -> None:
    assert page.post("/settings/keys/", {"name": "", "scopes": ["read"]}).status_code == 422
    assert page.post("/settings/keys/", {"name": "laptop"}).status_code == 422
    assert page.post("/settings/keys/", {"name": "laptop", "scopes": ["everything"]}).status_code == 422


def test_revoking_asks_first_and_names_the_key(page: Client, user: User) -> None:
    key, _ = ApiKey.create(user, "laptop")
    assert "Revoke “laptop”?" in page.get(f"/settings/keys/{key.id}/revoke/").content.decode()
    page.post(f"/settings/keys/{key.id}/revoke/")
    assert not user.api_keys.active().exists()
    assert page.post(f"/settings/keys/{key.id}/revoke/").status_code == 404


def test_error_pages_say_what_to_do(page: Client, settings: object) -> None:
    settings.DEBUG = False  # type: ignore[attr-defined]
    response = page.get("/nothing/")
    assert response.status_code == 404
    assert "There is nothing here" in response.content.decode()


def test_a_broken_page_says_that_nothing_is_lost(page: Client) -> None:
    page.raise_request_exception = False
    with connection.cursor() as cursor:
        # The test's transaction takes it back.
        cursor.execute("ALTER TABLE chats_chat RENAME COLUMN title TO lost")
    response = page.get("/chats/")
    assert response.status_code == 500
    assert "Nothing that was accepted is lost" in response.content.decode()


def test_the_style_guide_is_for_development_only(page: Client, settings: object) -> None:
    settings.DEBUG = True  # type: ignore[attr-defined]
    assert page.get("/styleguide/").status_code == 200
    settings.DEBUG = False  # type: ignore[attr-defined]
    assert page.get("/styleguide/").status_code == 404


def test_no_page_has_anything_inline(page: Client) -> None:
    inside = ("/", "/settings/", "/chats/", "/accounts/password/change/")
    outside = ("/accounts/login/", "/accounts/signup/", "/accounts/password/reset/", "/accounts/logout/")
    for client, address in [*((page, a) for a in inside), *((Client(), a) for a in outside[:3]), (page, outside[3])]:
        response = client.get(address)
        policy = response["Content-Security-Policy"]
        html = response.content.decode()
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]*\s(?:src=|type=.application/json))|<style|\sstyle=|\son\w+=", html)


def test_what_was_used_today_shows_its_cost(page: Client, user: User) -> None:
    fields = {"user": user, "model": "m", "kind": "chat", "work_class": "api", "outcome": "complete"}
    UsageRecord.objects.create(request_id="1", prompt_tokens=1000, started_at=timezone.now(), **fields)
    assert "1,000 tokens, 0 GPU seconds." in page.get("/settings/").content.decode()
    UsageRecord.objects.create(request_id="2", cost=Decimal("0.25"), started_at=timezone.now(), **fields)
    User.objects.filter(pk=user.pk).update(is_staff=True)
    for address in ("/settings/", f"/admin/users/{user.pk}/"):
        assert "0 GPU seconds, 0.2500 USD." in page.get(address).content.decode()
