"""`/api/account/`, `/api/users/`, `/api/roles/`, `/api/settings/`: who may what, and what it changes."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from aiia_platform.accounts.models import ApiKey, Role, Scope, User
from aiia_platform.options.models import current

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


class Api:
    """A program with a key of a user."""

    def __init__(self, user: User, *scopes: str, **more: Any) -> None:
        secret = ApiKey.create(user, "test", scopes or Scope.values, **more)[1]
        self._client = Client(headers={"Authorization": f"Bearer {secret}"})

    def etag(self, path: str) -> str:
        return str(self._client.get(f"/api/{path}")["ETag"])

    def __call__(self, method: str, path: str, body: Any = None, if_match: str = "*") -> tuple[int, Any]:
        response = self._client.generic(
            method,
            f"/api/{path}",
            "" if body is None else json.dumps(body),
            "application/json",
            headers={"If-Match": if_match},
        )
        if response.status_code >= 400:
            assert response["Content-Type"] == "application/problem+json"
        return response.status_code, response.json() if response.content else None


@pytest.fixture
def api(user: User) -> Api:
    return Api(user)


@pytest.fixture
def admin(db: None) -> Api:
    return Api(User.objects.create_user("root", "root@example.org", "correct horse battery", is_staff=True))


def test_one_sees_and_changes_oneself(api: Api, user: User) -> None:
    status, me = api("GET", "account/")
    assert status == 200
    assert (me["username"], me["theme"], me["limits"]["daily_tokens"]) == ("ada", "system", 0)
    change = {
        "theme": "dark",
        "bio": "Trains",
        "llm_preferences": {"temperature": 0.2},
        "preferences": {"width": "wide"},
        "afterwords": {"titles": True, "tags": False, "follow_ups": True, "temporary": False},
    }
    status, me = api("PATCH", "account/", change)
    assert status == 200
    assert {name: me[name] for name in change} == change
    assert api("PATCH", "account/", {"bio": ""})[1]["llm_preferences"] == {"temperature": 0.2}
    user.refresh_from_db()
    assert user.theme == "dark"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"theme": "pink"}, "theme"),
        ({"llm_preferences": {"temperature": 9}}, "llm_preferences.temperature"),
        ({"preferences": {"width": "huge"}}, "preferences.width"),
    ],
)
def test_mistakes_are_named(api: Api, change: Any, field: str) -> None:
    status, problem = api("PATCH", "account/", change)
    assert status == 400
    assert [mistake["field"] for mistake in problem["errors"]] == [field]


def test_nobody_promotes_themselves(api: Api, user: User) -> None:
    api("PATCH", "account/", {"is_administrator": True, "is_staff": True, "username": "root"})
    user.refresh_from_db()
    assert not user.is_staff
    assert user.username == "ada"


def test_tokens_are_made_listed_and_revoked(api: Api) -> None:
    status, made = api("POST", "account/tokens/", {"name": "notebook", "scopes": ["models", "read"]})
    assert status == 201
    assert made["secret"].startswith("sk-")
    status, listed = api("GET", "account/tokens/")
    assert [token["name"] for token in listed["results"]] == ["notebook", "test"]
    assert "secret" not in listed["results"][0]
    assert api("DELETE", f"account/tokens/{made['id']}/")[0] == 204
    assert api("DELETE", f"account/tokens/{made['id']}/")[0] == 404
    assert api("POST", "account/tokens/", {"name": "none", "scopes": []})[0] == 400


def test_a_key_makes_none_that_may_more_or_lasts_longer(user: User) -> None:
    soon = timezone.now() + timedelta(days=1)
    api = Api(user, Scope.READ, Scope.WRITE, expires_at=soon)
    ask = {"name": "x", "scopes": ["read"], "expires_at": soon.isoformat()}
    assert api("POST", "account/tokens/", ask)[0] == 201
    assert api("POST", "account/tokens/", {**ask, "scopes": ["read", "admin"]})[0] == 403
    assert api("POST", "account/tokens/", {"name": "x", "scopes": ["read"]})[0] == 403


def test_others_tokens_are_not_there(api: Api) -> None:
    eve = User.objects.create_user("eve")
    key, _ = ApiKey.create(eve, "hers")
    assert api("DELETE", f"account/tokens/{key.id}/")[0] == 404
    assert ApiKey.objects.active().filter(user=eve).exists()


def test_only_administrators_see_people_roles_and_settings(api: Api) -> None:
    for path in ("users/", "users/1/", "roles/", "roles/1/", "settings/"):
        assert api("GET", path)[0] == 403


def test_users_are_made_changed_and_closed(admin: Api) -> None:
    Role.objects.create(name="Heavy", daily_tokens=7)
    body = {"username": "bob", "email": "bob@example.org", "password": "correct horse battery", "role": "Heavy"}
    status, bob = admin("POST", "users/", body)
    assert status == 201
    assert "password" not in bob
    assert admin("POST", "users/", body)[0] == 400
    assert admin("POST", "users/", {"username": "eve", "password": "12345"})[0] == 400
    path = f"users/{bob['id']}/"
    assert admin("PATCH", path, {"daily_tokens": 5, "is_administrator": True})[1]["is_administrator"]
    assert admin("PATCH", path, {"is_active": False})[1]["is_active"] is False
    assert not Client().login(username="bob", password="correct horse battery")
    status, found = admin("GET", "users/?state=closed&q=BOB")
    assert [person["username"] for person in found["results"]] == ["bob"]
    assert admin("PATCH", path, {"is_active": True})[1]["is_active"]


def test_there_is_always_an_administrator(admin: Api) -> None:
    root = User.objects.get(username="root")
    assert admin("PATCH", f"users/{root.pk}/", {"is_administrator": False})[0] == 409
    assert admin("PATCH", f"users/{root.pk}/", {"is_active": False})[0] == 409


def test_a_stale_writer_overwrites_nothing(admin: Api, user: User) -> None:
    role = admin("POST", "roles/", {"name": "Guests"})[1]["id"]
    for path, change, other in (
        ("account/", {"bio": "Trains"}, {"bio": "Planes"}),
        (f"users/{user.pk}/", {"daily_tokens": 5}, {"daily_tokens": 6}),
        (f"roles/{role}/", {"daily_tokens": 5}, {"daily_tokens": 6}),
    ):
        seen = admin.etag(path)
        assert admin("PATCH", path, change, if_match=seen)[0] == 200
        assert admin("PATCH", path, other, if_match=seen)[0] == 412
        assert admin("GET", path)[1] | change == admin("GET", path)[1]
        assert admin("PATCH", path, other, if_match=admin.etag(path))[0] == 200
        assert admin("PATCH", path, change)[0] == 200


def test_roles(admin: Api) -> None:
    status, role = admin("POST", "roles/", {"name": "Guests", "may_use_api": False})
    assert status == 201
    assert admin("PATCH", f"roles/{role['id']}/", {"daily_tokens": 9})[1]["daily_tokens"] == 9
    assert admin("DELETE", f"roles/{role['id']}/")[0] == 204


def test_settings(admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def setting(name: str) -> Any:
        return next(s for s in admin("GET", "settings/")[1]["settings"] if s["name"] == name)

    assert admin("PATCH", "settings/", {"signup": "closed", "smtp_password": "hunter2"})[0] == 200
    assert setting("signup")["origins"][-1] == {"origin": "page", "value": "closed"}
    assert setting("smtp_password")["value"] is True
    assert admin("PATCH", "settings/", {"signup": None})[0] == 200
    assert current("signup") == "open"
    for wrong in ({"signup": "perhaps"}, {"nothing": 1}, {"api_rate": [1]}):
        assert admin("PATCH", "settings/", wrong)[0] == 400
    monkeypatch.setenv("AIIA_SIGNUP", "approval")
    assert admin("PATCH", "settings/", {"signup": "open"})[0] == 400


def test_a_list_of_users_costs_the_same_for_any_number(
    admin: Api, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    role = Role.objects.create(name="Heavy")
    User.objects.bulk_create([User(username=f"user{i}", role=role) for i in range(50)])
    with django_assert_num_queries(4):  # two for the key, count and page
        assert len(admin("GET", "users/")[1]["results"]) == 51
