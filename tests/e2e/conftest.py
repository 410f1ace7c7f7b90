import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.e2e.gateway import Script
from tests.e2e.site import Site
from tests.support.services import RedisServer

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
#: A browser under test talks to nobody but the site.
QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-gpu",
]
PASSWORD = "correct horse battery"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium: `AIIA_TEST_BROWSER`, or the one on the PATH, or Playwright's own."""
    path = os.environ.get("AIIA_TEST_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def _site(postgres_server: None, redis_server: RedisServer) -> Iterator[Site]:
    with Site(os.environ["DATABASE_URL"], redis_server.url) as site:
        yield site


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    """The site, with a gateway that does what is usual."""
    _site.gateway.script = Script()
    yield _site
    # Lets go of whatever still waits.
    if hold := _site.gateway.script.hold:
        hold.set()


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Open a page in a browser of its own. A test fails when its console shows an error."""
    contexts: list[BrowserContext] = []
    trouble: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # A refusal, such as 409 for a busy chat, is an answer and no mistake.
        if message.type == "error" and not re.search(r"status of 4|Status Error Code 4", message.text):
            trouble.append(message.text)

    def open_page(**options: object) -> Page:
        context = browser.new_context(**({"base_url": site.url} | DESKTOP | options))  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", listen)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # Tests of a lost connection lose it on purpose.
    assert [text for text in trouble if "net::ERR_" not in text] == []


_names = count()


def register(page: Page) -> str:
    """A new person, who then sees an empty chat."""
    name = f"ada{next(_names)}"
    page.goto("/accounts/signup/")
    page.fill("[name=username]", name)
    page.fill("[name=password1]", PASSWORD)
    page.click("main button[type=submit]")
    page.wait_for_selector("#composer")
    return name


def ask(page: Page, text: str = "Three days in Rome, what should I see?") -> None:
    """Type a question and send it, until it stands in the chat."""
    page.fill("#composer textarea", text)
    turns = page.locator("#messages > article").count()
    page.click("#composer [data-send]")
    page.locator("#messages > article").nth(turns + 1).wait_for()


def wait_for_end(page: Page, timeout: float = 30_000) -> None:
    """Until the last answer has ended."""
    page.wait_for_selector("#messages > article:last-of-type[aria-busy=false] [data-footer]", timeout=timeout)


def until(page: Page, expression: str, timeout: float = 15) -> None:
    """Wait until an expression is true. Playwright's own wait evaluates inside the page, which its policy forbids."""
    deadline = time.monotonic() + timeout
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)
