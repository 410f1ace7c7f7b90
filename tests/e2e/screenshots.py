"""Pictures of every page, for looking at them: `python -m tests.e2e.screenshots [folder]`.

Each page at phone and desktop size, light and dark, into `test-results/screenshots`; the README's picture into
`docs/images`. The web assets have to be built.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.conftest import DESKTOP, PHONE, QUIET, ask, register, until, wait_for_end
from tests.e2e.gateway import READY, Script
from tests.e2e.site import Site
from tests.support import plugin, services

REPOSITORY = Path(__file__).parents[2]
DEVICES: dict[str, dict[str, Any]] = {"phone": PHONE, "desktop": DESKTOP}


def scenes(page: Page, site: Site) -> Iterator[str]:
    """Walk through the pages; each name yielded is a picture to take."""
    for name, address in (("login", "/accounts/login/"), ("register", "/accounts/signup/"), ("404", "/nothing/")):
        page.goto(address)
        yield name
    site.gateway.script = Script(model={"state": "starting", "reason": "", "progress": 0.4, "eta_s": 40})
    page.wait_for_timeout(1100)
    register(page)
    yield "empty"
    hold = threading.Event()
    site.gateway.script = Script(
        tokens_per_second=400, phases=[{"phase": "queued", "position": 3, "eta_s": 12}], hold=hold
    )
    ask(page)
    page.get_by_text("Queued: 3rd").wait_for()
    yield "queued"
    hold.set()
    until(page, "document.querySelectorAll('[data-blocks] > div').length > 4")
    yield "streaming"
    wait_for_end(page)
    page.wait_for_timeout(300)
    yield "answer-end"
    page.evaluate("document.getElementById('scroller').scrollTop = 0")
    page.wait_for_timeout(200)
    yield "answer"
    page.click("[aria-label='Delete chat']")
    page.get_by_role("dialog").wait_for()
    yield "delete"
    page.keyboard.press("Escape")
    site.gateway.script = Script(error="scripted did not answer within 120 s", error_after=20)
    ask(page, "And Naples?")
    wait_for_end(page)
    yield "failed"
    site.gateway.script = Script(tokens_per_second=20)
    ask(page, "Then only Naples, one day")
    until(page, "[...document.querySelectorAll('[data-blocks]')].at(-1).children.length > 0")
    page.fill("#composer textarea", "And Pompeii?")
    page.evaluate("document.getElementById('composer').requestSubmit()")
    page.get_by_text("An answer is being written").wait_for()
    yield "busy"
    page.evaluate("document.getElementById('stop').requestSubmit()")
    wait_for_end(page)
    yield "stopped"
    if opener := page.get_by_label("Open sidebar").locator("visible=true").all():
        opener[0].click()
        page.wait_for_timeout(400)
        yield "sidebar"
    page.goto("/chats/")
    yield "chats"
    page.goto("/settings/")
    page.fill("[name=name]", "laptop")
    page.click("text=Create key")
    page.locator("#text-secret").wait_for()
    yield "settings"
    page.goto("/accounts/password/change/")
    yield "password"
    yield from after_an_answer(page, site)


def after_an_answer(page: Page, site: Site) -> Iterator[str]:
    """What a model says of a chat, and the mark of a summary."""
    says = {
        "Summarise the conversation": "The user asked for **three days in Rome**. The Forum, the Vatican and "
        "Trastevere were proposed, a day each.",
        "Here is a conversation": json.dumps(
            {
                "title": "Three days in Rome",
                "tags": ["rome", "travel"],
                "questions": ["Where should I stay?", "Which tickets do I have to book before I go?", "Is April warm?"],
            }
        ),
    }
    site.kill("worker")
    site.start_worker(AIIA_TITLES="1", AIIA_TAGS="1", AIIA_FOLLOW_UPS="1")
    site.gateway.script = Script(says=says, model=READY | {"max_model_len": 600})
    page.goto("/")
    ask(page)
    page.locator("#follow-ups").wait_for()
    page.wait_for_timeout(300)
    yield "follow-ups"
    ask(page, "And to eat?")
    wait_for_end(page)
    page.goto(f"{page.url}edit/")
    page.select_option("[name=strategy]", "summary")
    page.click("text=Save")
    ask(page, "Where to sleep?")
    page.locator("#summary-marker summary").click()
    page.locator("#follow-ups").wait_for()
    page.evaluate("document.getElementById('summary-marker').scrollIntoView({block: 'center'})")
    yield "summary"
    site.kill("worker")
    site.start_worker()


def take(browser: Browser, site: Site, folder: Path) -> None:
    """All pictures, named `<page>-<device>-<theme>.png`."""
    for device, options in DEVICES.items():
        for theme in ("light", "dark"):
            context = browser.new_context(base_url=site.url, color_scheme=theme, reduced_motion="reduce", **options)
            page = context.new_page()
            for name in scenes(page, site):
                # Two frames, so that what was just scrolled is painted.
                page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
                page.screenshot(path=folder / f"{name}-{device}-{theme}.png")
            context.close()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "test-results" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    redis = services.RedisServer()
    redis.start()
    path = os.environ.get("AIIA_TEST_BROWSER") or shutil.which("chromium")
    try:
        with (
            services.postgres(),
            Site(os.environ["DATABASE_URL"], redis.url) as site,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=path, args=QUIET)
            take(browser, site, folder)
            browser.close()
    finally:
        redis.kill()
    images = REPOSITORY / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "answer-desktop-light.png", images / "chat.png")
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}, made with {plugin.ROOT.name}")


if __name__ == "__main__":
    main()
