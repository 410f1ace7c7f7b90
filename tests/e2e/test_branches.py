"""Branches on two devices, and the chat by keyboard, in a real browser."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import DESKTOP, PASSWORD, PHONE, ask, register, until, wait_for_end
from tests.e2e.gateway import Script
from tests.e2e.site import Site

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]


def _second_device(open_page: Open, name: str, address: str, **options: object) -> Page:
    page = open_page(**options)
    page.goto("/accounts/login/")
    page.fill("[name=login]", name)
    page.fill("[name=password]", PASSWORD)
    page.click("main button[type=submit]")
    page.goto(address)
    return page


def test_two_devices_lose_nothing(site: Site, open_page: Open) -> None:
    """A stale tab sends, edits and deletes while a phone has moved on."""
    site.gateway.script = Script(text="First answer.")
    tab = open_page(**DESKTOP)
    name = register(tab)
    ask(tab, "First question")
    wait_for_end(tab)
    stale = tab.context.new_page()
    stale.goto(tab.url)
    phone = _second_device(open_page, name, tab.url, **PHONE)
    site.gateway.script = Script(text="Answer to the phone.")
    ask(phone, "From the phone")
    wait_for_end(phone)
    phone.get_by_label("Edit").nth(1).click()
    phone.fill("[name=text]", "First answer, edited on the phone.")
    phone.get_by_role("button", name="Save").click()
    expect(phone.get_by_text("edited on the phone")).to_be_visible()
    # The tabs know nothing of this.
    tab.hover("article >> nth=1")
    tab.get_by_label("Delete message").nth(1).click()
    expect(tab.get_by_role("alert").filter(has_text="changed elsewhere")).to_be_visible()
    expect(tab.get_by_text("edited on the phone")).to_be_visible()
    site.gateway.script = Script(text="Answer to the tab.")
    ask(stale, "From the tab")
    wait_for_end(stale)
    stale.reload()
    expect(stale.get_by_text("Answer to the tab.")).to_be_visible()
    stale.hover("article >> nth=2")
    stale.get_by_label("Previous version").click()
    expect(stale.get_by_text("Answer to the phone.")).to_be_visible()
    expect(stale.get_by_text("From the phone")).to_be_visible()


@pytest.mark.parametrize("device", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_editing_a_question_keeps_the_old_one(
    site: Site, open_page: Open, device: dict[str, object], scripts: bool
) -> None:
    site.gateway.script = Script(text="About Rome.")
    page = open_page(**device, java_script_enabled=scripts)
    register(page)
    page.fill("#composer textarea", "Rome?")
    page.click("#composer [data-send]")
    expect(page.get_by_text("About Rome.")).to_be_visible(timeout=15_000)
    expect(page.locator("[data-footer]").last).to_contain_text("scripted ·", timeout=15_000)
    site.gateway.script = Script(text="About Oslo.")
    page.hover("article >> nth=0")
    page.get_by_label("Edit").first.click()
    page.fill("[name=text]", "Oslo?")
    page.get_by_role("main").get_by_role("button", name="Send").click()
    expect(page.get_by_text("About Oslo.")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("2 / 2")).to_be_visible()
    page.get_by_label("Previous version").first.click()
    expect(page.get_by_text("About Rome.")).to_be_visible()


def test_search_by_keyboard(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(text="The Pantheon has a hole in its roof.")
    page = open_page()
    register(page)
    ask(page, "What to see in Rome?")
    wait_for_end(page)
    page.keyboard.press("Control+k")
    expect(page).to_have_url(re.compile("/search/$"))
    page.keyboard.type("panth")
    page.keyboard.press("Enter")
    expect(page.locator("mark")).to_have_text("Pantheon")
    page.locator("mark").click()
    expect(page.get_by_text("a hole in its roof")).to_be_visible()


def test_what_is_typed_is_there_on_the_next_visit(site: Site, open_page: Open) -> None:
    page = open_page()
    register(page)
    page.fill("#composer textarea", "Half a tho")
    with page.expect_response(re.compile("/draft/$")):
        page.type("#composer textarea", "ught")
    page.goto("/")
    expect(page.locator("#composer textarea")).to_have_value("Half a thought")
    until(page, "document.activeElement.name === 'text'")
