"""A new user's first minutes: `aiia up`, register, ask, and the answer is there again after a restart."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import DESKTOP, PASSWORD, ask, register, wait_for_end
from tests.support.instance import Instance

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

QUESTION = "What is the capital of France?"
#: Seconds for preparing the model's files on a first run, and for loading it.
COLD = 600


def _open(browser: Browser, instance: Instance) -> Page:
    page = browser.new_context(base_url=instance.address, **DESKTOP).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(30_000)
    return page


def test_first_light(browser: Browser, tmp_path: Path) -> None:
    with Instance(tmp_path / "data") as instance:
        # The page is there long before the model is.
        instance.wait_ready("web", timeout=120)
        page = _open(browser, instance)
        name = register(page)
        expect(page.locator("#model option:not([value=''])").first).to_be_attached(timeout=60_000)
        ask(page, QUESTION)
        expect(page.locator("[data-footer]")).not_to_be_empty()
        wait_for_end(page, timeout=COLD * 1000)
        answer = page.locator("[data-blocks]").inner_text()
        assert "Paris" in answer
        expect(page.locator("[data-footer]")).to_contain_text("tokens")
        address = page.url
        page.context.close()
        assert instance.stop() == 0

    with Instance(tmp_path / "data", port=instance.port) as instance:
        instance.wait_ready("web", timeout=60)
        page = _open(browser, instance)
        page.goto(address)
        page.fill("[name=login]", name)
        page.fill("[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(address)
        assert page.locator("[data-blocks]").inner_text() == answer
        expect(page.locator("#chats")).to_contain_text(QUESTION)
        page.context.close()
