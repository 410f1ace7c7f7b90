"""Pages for administrators."""

import pytest
from django.test import Client

from aiia_platform.accounts.models import User
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


@pytest.mark.parametrize("address", ["/admin/settings/"])
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
