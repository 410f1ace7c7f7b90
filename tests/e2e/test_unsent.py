"""A message sent after the session ended, in a real browser without scripts."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import PASSWORD, PHONE, register
from tests.e2e.site import Site

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]


@pytest.mark.parametrize("lost", ["sessionid", None], ids=["session", "all cookies"])
def test_a_message_sent_without_a_session_is_in_the_box_after_the_login(
    site: Site, open_page: Open, lost: str | None
) -> None:
    page = open_page(java_script_enabled=False, **PHONE)
    name = register(page)
    page.fill("#composer textarea", "Three days in Rome?")
    page.context.clear_cookies(**({"name": lost} if lost else {}))
    page.click("#composer [data-send]")
    expect(page.locator("h1")).to_have_text("Log in")
    expect(page.locator("#toasts")).to_contain_text("Your message is in the box again")
    page.fill("[name=login]", name)
    page.fill("[name=password]", PASSWORD)
    page.click("main form button[type=submit]")
    expect(page.locator("#composer textarea")).to_have_value("Three days in Rome?")
    expect(page.locator("article")).to_have_count(0)
    page.click("#composer [data-send]")
    expect(page.locator("article").first).to_contain_text("Three days in Rome?")
