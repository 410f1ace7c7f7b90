"""Pages for administrators."""

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from aiia_platform.accounts.models import Role, User
from aiia_platform.options.models import StoredOption, current

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]


@pytest.fixture
def admin_page(user: User) -> Client:
    """A browser without scripts, signed in as an administrator."""
    user.is_staff = user.is_superuser = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


ADDRESSES = ("settings/", "users/", "users/new/", "users/1/", "roles/", "roles/new/")


@pytest.mark.parametrize("address", [f"/admin/{address}" for address in ADDRESSES])
def test_only_administrators_come_in(page: Client, address: str) -> None:
    assert page.get(address).status_code == 403
    assert page.post(address).status_code == 403


def test_settings_show_each_value_and_which_wins(admin_page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    StoredOption.change({"signup": "closed", "oidc_name": "Company"})
    monkeypatch.setenv("AIIA_SIGNUP", "approval")
    html = " ".join(admin_page.get("/admin/settings/").content.decode().split())
    part = html.split('id="option-signup"')[1].split('id="option-')[0]
    places = [part.index(words) for words in ("Decided by", "Default", "This page", "Environment", ">in effect")]
    assert places == sorted(places)
    assert 'name="signup"' not in part
    assert 'value="Company"' in html


def test_settings_are_changed_and_go_back_to_the_default(admin_page: Client) -> None:
    form = {"signup": "closed", "api_rate": "60", "smtp_password": "hunter2"}
    assert admin_page.post("/admin/settings/", form).status_code == 302
    assert (current("signup"), current("api_rate"), current("smtp_password")) == ("closed", 60, "hunter2")
    assert "hunter2" not in admin_page.get("/admin/settings/").content.decode()
    # An empty secret stays, everything else that is empty goes back.
    admin_page.post("/admin/settings/", {"signup": "open"})
    assert (current("signup"), current("api_rate"), current("smtp_password")) == ("open", 600, "hunter2")
    assert set(StoredOption.objects.values_list("name", flat=True)) == {"smtp_password"}


def test_a_wrong_setting_is_named_and_nothing_is_stored(admin_page: Client) -> None:
    response = admin_page.post("/admin/settings/", {"signup": "closed", "smtp_port": "70000"})
    assert response.status_code == 422
    assert 'aria-invalid="true"' in response.content.decode()
    assert current("signup") == "open"


def test_users_are_found_and_let_in(admin_page: Client) -> None:
    bob = User(username="bob", email="bob@example.org").register(must_wait=True)
    html = admin_page.get("/admin/users/").content.decode()
    assert html.index(">bob<") < html.index(">ada<")
    assert ">ada<" not in admin_page.get("/admin/users/?q=BOB@").content.decode()
    assert admin_page.get("/admin/users/?show=waiting&q=%00").status_code == 200
    admin_page.post(f"/admin/users/{bob.pk}/approve/")
    bob.refresh_from_db()
    assert bob.is_active
    assert "Nobody" in admin_page.get("/admin/users/?show=waiting").content.decode()


def test_a_list_of_users_costs_the_same_for_any_number(
    admin_page: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    role = Role.objects.create(name="Heavy")
    User.objects.bulk_create([User(username=f"user{i}", email=f"u{i}@example.org", role=role) for i in range(120)])
    with django_assert_max_num_queries(5):  # the session, its user, count, page, the sidebar
        html = admin_page.get("/admin/users/?page=2").content.decode()
    assert "2 of 3" in html


def test_a_user_is_made_and_can_log_in(admin_page: Client) -> None:
    form = {"username": "bob", "email": "bob@example.org", "password": "correct horse battery"}
    assert admin_page.post("/admin/users/new/", {**form, "password": "12345"}).status_code == 422
    assert admin_page.post("/admin/users/new/", form).status_code == 302
    assert admin_page.post("/admin/users/new/", form).status_code == 422
    StoredOption.change({"email_verification": "mandatory"})
    client = Client()
    client.post("/accounts/login/", {"login": "bob", "password": "correct horse battery"})
    assert client.get("/").status_code == 200


def test_rights_and_shares_are_changed(admin_page: Client, stranger: User) -> None:
    role = Role.objects.create(name="Heavy", daily_tokens=1000)
    form = {"role": role.pk, "daily_tokens": "", "daily_gpu_seconds": "60"}
    assert admin_page.post(f"/admin/users/{stranger.pk}/", form).status_code == 302
    stranger.refresh_from_db()
    assert (stranger.limit("daily_tokens"), stranger.limit("daily_gpu_seconds")) == (1000, 60)
    admin_page.post(f"/admin/users/{stranger.pk}/password/", {"password": "another horse battery"})
    stranger.refresh_from_db()
    assert stranger.check_password("another horse battery")
    assert admin_page.post(f"/admin/users/{stranger.pk}/password/", {"password": "1"}).status_code == 422


def test_a_closed_account_is_out_at_once(admin_page: Client, stranger: User) -> None:
    client = Client()
    client.force_login(stranger)
    assert (
        f"Close the account of “{stranger.username}”?"
        in admin_page.get(f"/admin/users/{stranger.pk}/close/").content.decode()
    )
    admin_page.post(f"/admin/users/{stranger.pk}/close/")
    assert client.get("/").status_code == 302


def test_there_is_always_an_administrator(admin_page: Client, user: User) -> None:
    assert admin_page.post(f"/admin/users/{user.pk}/", {"daily_tokens": ""}).status_code == 422
    admin_page.post(f"/admin/users/{user.pk}/close/")
    user.refresh_from_db()
    assert user.is_active
    assert user.is_staff


def test_roles_are_made_changed_and_removed(admin_page: Client, stranger: User) -> None:
    assert "No roles yet" in admin_page.get("/admin/roles/").content.decode()
    admin_page.post("/admin/roles/new/", {"name": "Guests", "daily_tokens": "5000"})
    role = Role.objects.get()
    assert not role.may_use_api
    stranger.role = role
    stranger.save()
    html = admin_page.get("/admin/roles/").content.decode()
    assert "1 person" in html
    assert "5,000 tokens a day" in html
    admin_page.post(f"/admin/roles/{role.pk}/", {"name": "Guests", "may_use_api": "on"})
    stranger.refresh_from_db()
    assert stranger.may_use_api
    admin_page.post(f"/admin/roles/{role.pk}/remove/")
    stranger.refresh_from_db()
    assert stranger.role is None


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7|add:7 }}'"])
def test_what_people_write_stays_text(admin_page: Client, user: User, hostile: str) -> None:
    role = Role.objects.create(name=hostile, daily_tokens=7)
    user.username, user.role = hostile[:150], role
    user.save()
    admin_page.post("/settings/profile/", {"bio": hostile})
    admin_page.post("/settings/models/", {"system_prompt": hostile})
    admin_page.post("/settings/keys/", {"name": hostile, "scopes": ["read"]})
    StoredOption.change({"oidc_name": hostile, "oidc_issuer": "https://id.example.org", "mail_from": hostile})
    key = user.api_keys.get()
    pages = (
        "/settings/",
        f"/settings/keys/{key.pk}/revoke/",
        "/admin/users/",
        f"/admin/users/{user.pk}/",
        f"/admin/users/{user.pk}/close/",
        "/admin/roles/",
        f"/admin/roles/{role.pk}/remove/",
        "/admin/settings/",
        "/accounts/2fa/",
    )
    for client, address in [*((admin_page, page) for page in pages), (Client(), "/accounts/login/")]:
        response = client.get(address)
        assert response.status_code == 200
        html = response.content.decode()
        assert "<script>alert" not in html
        assert "<img src=x" not in html
        assert ">14'" not in html
