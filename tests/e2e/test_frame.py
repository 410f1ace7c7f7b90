"""The frame: sidebar, keys, themes, and whether everybody can use it."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import DESKTOP, PHONE, ask, register, wait_for_end
from tests.e2e.gateway import Script
from tests.e2e.site import Site

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]

AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"


def _closed(page: Page) -> None:
    expect(page.locator("#sidebar")).not_to_be_in_viewport()


def test_on_a_phone_the_sidebar_lies_over_the_page(open_page: Open) -> None:
    page = open_page(**PHONE)
    register(page)
    _closed(page)
    opener = page.get_by_label("Open sidebar").locator("visible=true")
    opener.tap()
    expect(page.locator("#sidebar")).to_be_in_viewport(ratio=0.99)
    page.keyboard.press("Escape")
    _closed(page)
    opener.tap()
    expect(page.locator("#sidebar")).to_be_in_viewport(ratio=0.99)
    page.touchscreen.tap(370, 400)
    _closed(page)
    opener.tap()
    page.get_by_role("button", name="Close sidebar").tap()
    _closed(page)


def test_on_a_desktop_the_sidebar_stays_as_it_was_left(open_page: Open) -> None:
    page = open_page()
    register(page)
    with page.expect_response("**/settings/sidebar/"):
        page.get_by_role("button", name="Close sidebar").click()
    expect(page.locator("#sidebar")).to_be_hidden()
    page.reload()
    expect(page.locator("#sidebar")).to_be_hidden()
    with page.expect_response("**/settings/sidebar/"):
        page.get_by_role("button", name="Open sidebar").click()
    expect(page.locator("#sidebar")).to_be_visible()


def test_the_theme_follows_the_system_until_one_is_chosen(open_page: Open) -> None:
    page = open_page(color_scheme="dark")
    register(page)
    background = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(background) == "rgb(23, 23, 23)"
    page.goto("/settings/")
    page.check("text=Light")
    page.click("text=Save")
    expect(page.locator("#toasts")).to_contain_text("Saved")
    assert page.evaluate(background) == "rgb(255, 255, 255)"


def test_an_api_key_is_made_shown_once_and_revoked(open_page: Open) -> None:
    page = open_page()
    register(page)
    page.goto("/settings/")
    page.fill("[name=name]", "laptop")
    page.click("text=Create key")
    expect(page.locator("#text-secret")).to_have_text(re.compile(r"^sk-[\w-]{20,}$"))
    page.reload()
    expect(page.locator("#text-secret")).to_have_count(0)
    page.click("text=Revoke")
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.locator("#keys-section")).to_contain_text("No keys yet")


def test_log_out_and_in_again(open_page: Open) -> None:
    page = open_page()
    name = register(page)
    page.click(f"summary:has-text('{name}')")
    page.click("text=Log out")
    page.wait_for_url("**/accounts/login/**")
    page.fill("[name=login]", name)
    page.fill("[name=password]", "correct horse battery")
    page.keyboard.press("Enter")
    expect(page.locator("#composer")).to_be_visible()


def test_everything_is_reached_by_the_keyboard(open_page: Open) -> None:
    page = open_page()
    register(page)
    page.goto("/settings/")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    page.goto("/")
    page.locator("a[href='#content']").first.focus()
    seen = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"))
    assert {"New chat", "Close sidebar", "Model", "Conversation", "Message", "Send"} <= {text.strip() for text in seen}
    page.locator("#scroller").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_whole_of_it_works_without_scripts(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(tokens_per_second=60)
    page = open_page(**PHONE, java_script_enabled=False)
    register(page)
    page.get_by_label("Open sidebar").locator("visible=true").tap()
    expect(page.locator("#sidebar")).to_be_in_viewport(ratio=0.9)
    page.goto("/")
    ask(page, "Trip to Rome")
    expect(page.locator("[data-footer]")).to_contain_text(re.compile("Queued|Writing|Working|Reading"))
    # The page asks again by itself.
    expect(page.locator("[data-blocks]")).to_contain_text("Rome was not built")
    page.click("[aria-label=Stop]")
    expect(page.locator("[data-footer]")).to_contain_text("Stopped by you")
    site.gateway.script = Script()
    page.click("text=Retry")
    expect(page.locator("[data-footer]")).to_contain_text("scripted ·")
    expect(page.locator(".code")).to_be_visible()
    expect(page.locator(".code-copy")).to_be_hidden()
    page.click("[aria-label='Delete chat']")
    expect(page.locator("h1")).to_have_text("Delete “Trip to Rome”?")
    page.click("button:has-text('Delete')")
    expect(page.locator("#toasts")).to_contain_text("Deleted “Trip to Rome”")


def _axe(page: Page) -> list[str]:
    """Serious and critical findings, one line each."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)")
    return [
        f"{page.url} {finding['id']}: {node['html'][:160]}"
        for finding in found
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_axe_finds_nothing_serious(site: Site, open_page: Open, device: dict[str, object], scheme: str) -> None:
    page = open_page(**device, color_scheme=scheme, reduced_motion="reduce")
    findings: list[str] = []
    for address in ("/accounts/login/", "/accounts/signup/", "/nothing/"):
        page.goto(address)
        findings += _axe(page)
    register(page)
    findings += _axe(page)
    hold = threading.Event()
    site.gateway.script = Script(phases=[{"phase": "queued", "position": 3, "eta_s": 12}], hold=hold)
    ask(page)
    page.wait_for_selector("[data-status]")
    findings += _axe(page)
    hold.set()
    wait_for_end(page)
    findings += _axe(page)
    page.click("[aria-label='Delete chat']")
    page.get_by_role("dialog").wait_for()
    findings += _axe(page)
    site.gateway.script = Script(error="The context is too long", error_after=3)
    page.keyboard.press("Escape")
    ask(page)
    wait_for_end(page)
    findings += _axe(page)
    for address in ("/settings/", "/chats/", "/accounts/password/change/"):
        page.goto(address)
        findings += _axe(page)
    assert findings == []


@pytest.mark.parametrize("width", [320, 390])
def test_no_page_scrolls_sideways(site: Site, open_page: Open, width: int) -> None:
    page = open_page(**(PHONE | {"viewport": {"width": width, "height": 700}}))
    register(page)
    ask(page, "A-very-long-word-" * 20)
    wait_for_end(page)
    for address in (page.url, "/settings/", "/chats/", "/accounts/password/change/"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for box in page.locator("#scroller, [role=region]").all():
            assert box.evaluate("b => b.scrollWidth <= b.clientWidth")
