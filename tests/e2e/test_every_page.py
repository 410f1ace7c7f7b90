"""Every page that people see, in both themes and sizes: axe, sideways scrolling, and what shows without the server."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.urls import URLPattern, get_resolver
from playwright.sync_api import Dialog, Page, expect

from tests.e2e.conftest import DESKTOP, PASSWORD, PHONE, register
from tests.e2e.site import Site
from tests.e2e.test_frame import _axe

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]

#: Pages for who is not signed in.
OUTSIDE = (
    "/accounts/login/",
    "/accounts/signup/",
    "/accounts/password/reset/",
    "/accounts/password/reset/done/",
    "/accounts/password/reset/key/1-a/",
    "/accounts/confirm-email/",
    "/accounts/confirm-email/wrong/",
    "/accounts/inactive/",
    "/offline/",
    "/nothing/",
)
INSIDE = (
    "/",
    "/chats/",
    "/search/",
    "/settings/",
    "/shortcuts/",
    "/api/docs/",
    "/accounts/email/",
    "/accounts/password/change/",
    "/accounts/logout/",
    "/accounts/2fa/",
    "/accounts/2fa/webauthn/",
    "/accounts/2fa/totp/activate/",
    "/accounts/2fa/webauthn/add/",
    "/accounts/reauthenticate/",
    "/admin/users/",
    "/admin/users/new/",
    "/admin/users/1/",
    "/admin/users/1/close/",
    "/admin/roles/",
    "/admin/roles/new/",
    "/admin/settings/",
)
#: Addresses that show no page of their own: they act, stream, hold another's page, or are for development. The page of
#: models needs a manager, and has its own tests.
NO_PAGES = re.compile(
    r"^(healthz|readyz|metrics|internal/|api/(?!docs)|generations/|models/|styleguide|offline\.js|diagrams"
    r"|settings/.+|chats/.+|admin/(users|roles)/<.*|accounts/(oidc|social|3rdparty|2fa/(authenticate|reauthenticate"
    r"|recovery-codes|totp/deactivate|webauthn/(login|reauthenticate|keys))|login/code|password/(set|reset/key)"
    r"|confirm-email/.*|signup/passkey))"
)


def _addresses(resolver: Any = None, prefix: str = "") -> Iterator[str]:
    for entry in (resolver or get_resolver()).url_patterns:
        path = prefix + str(entry.pattern).lstrip("^").rstrip("$")
        if isinstance(entry, URLPattern):
            yield path
        else:
            yield from _addresses(entry, path)


def test_no_page_is_forgotten() -> None:
    known = {address.strip("/") for address in OUTSIDE + INSIDE}
    pages = {path.strip("/") for path in _addresses() if not NO_PAGES.match(path)}
    # Pages of a kind that an id tells apart are here by one of them.
    assert {page for page in pages - known if "<" not in page} == set()


@pytest.fixture
def administrator(site: Site, open_page: Open) -> Callable[..., Page]:
    """Log an administrator in."""
    site.run("create_user", "--email", "axe@example.org", "--password-stdin", "--admin", stdin=PASSWORD + "\n")

    def log_in(**options: object) -> Page:
        page = open_page(**options)
        page.goto("/accounts/login/")
        page.fill("[name=login]", "axe@example.org")
        page.fill("[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("#composer")
        return page

    return log_in


def confirm(page: Page) -> None:
    """Give the password where a page wants it again."""
    if page.locator("text=Confirm that it is you").count() and "/reauthenticate/?next" in page.url:
        page.fill("[name=password]", PASSWORD)
        page.click("text=Go on")


def test_axe_finds_nothing_serious_on_any_page(site: Site, open_page: Open, administrator: Callable[..., Page]) -> None:
    findings: list[str] = []
    for device in (PHONE, DESKTOP):
        stranger = open_page(**device, reduced_motion="reduce")
        page = administrator(**device, reduced_motion="reduce")
        for visitor, addresses in ((stranger, OUTSIDE), (page, INSIDE)):
            for address in addresses:
                visitor.goto(address)
                confirm(visitor)
                for scheme in ("light", "dark"):
                    visitor.emulate_media(color_scheme=scheme)
                    findings += [f"{scheme}: {finding}" for finding in _axe(visitor)]
                if device is PHONE and not visitor.evaluate("document.documentElement.scrollWidth <= innerWidth"):
                    findings.append(f"{address} scrolls sideways")
    assert findings == []


def test_a_server_that_is_away_gets_a_page_of_its_own(site: Site, open_page: Open) -> None:
    page = open_page()
    register(page)
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    page.context.set_offline(True)
    expect(page.locator("#no-connection")).to_be_visible()
    page.fill("#composer textarea", "Still here")
    page.context.set_offline(False)
    expect(page.locator("#no-connection")).to_be_hidden()
    expect(page.locator("#composer textarea")).to_have_value("Still here")
    site.kill("web")
    try:
        page.goto("/settings/")
        expect(page.locator("h1")).to_have_text("No connection")
        assert page.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") != "none"
    finally:
        site.start_web()
    page.click("text=Try again")
    expect(page.locator("#composer")).to_be_visible()


def test_the_sheet_of_shortcuts_opens_by_key_by_menu_and_without_scripts(open_page: Open) -> None:
    page = open_page()
    name = register(page)
    page.locator("#scroller").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Copy the last answer")
    page.keyboard.press("Escape")
    page.click(f"summary:has-text('{name}')")
    page.click("text=Keyboard")
    expect(page.get_by_role("dialog")).to_contain_text("Break the line")
    plain = open_page(java_script_enabled=False)
    name = register(plain)
    plain.click(f"summary:has-text('{name}')")
    plain.click("text=Keyboard")
    expect(plain.locator("main")).to_contain_text("Break the line")


def test_leaving_with_changes_asks(open_page: Open) -> None:
    page = open_page()
    register(page)
    page.goto("/settings/")
    page.fill("[name=bio]", "Trains")
    asked: list[str] = []

    def leave(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", leave)
    page.goto("/chats/")
    assert asked == ["beforeunload"]
    page.goto("/settings/")
    page.fill("[name=bio]", "Trains")
    page.locator("form[action='/settings/profile/'] button[type=submit]").click()
    expect(page.locator("#toasts")).to_contain_text("Saved")
    assert asked == ["beforeunload"]
    expect(page.locator("[name=bio]")).to_have_value("Trains")
