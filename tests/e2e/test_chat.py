"""The chat in a real browser, before a scripted gateway."""

import random
import re
import threading
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from aiia_web.markdown import blocks
from tests.e2e.conftest import PHONE, ask, register, until, wait_for_end
from tests.e2e.gateway import MARKDOWN, Script
from tests.e2e.site import Site

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]

#: The text of the last answer as the page shows it.
SHOWN = "[...document.querySelectorAll('[data-blocks]')].at(-1)?.textContent ?? ''"


def _plain(page: Page, text: str) -> str:
    """How a finished text reads in this browser."""
    script = "html => Object.assign(document.createElement('template'), {innerHTML: html}).content.textContent"
    return str(page.evaluate(script, "".join(blocks(text))))


def test_an_answer_streams_and_stays(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(tokens_per_second=150)
    page = open_page()
    register(page)
    ask(page)
    expect(page).to_have_title("Three days in Rome, what should I see? · aiia")
    expect(page).to_have_url(re.compile("/chats/[0-9a-f-]{36}/$"))
    expect(page.locator("#composer textarea")).to_have_value("")
    expect(page.locator("[data-status]")).to_have_text(re.compile(r"Writing, \d+ tok/s"))
    expect(page.locator("#chats .spinner")).to_be_visible()
    first = str(page.evaluate(SHOWN))
    wait_for_end(page)
    whole = _plain(page, MARKDOWN)
    assert whole.startswith(first[:10])
    assert page.evaluate(SHOWN) == whole
    expect(page.locator("[data-footer]")).to_contain_text(re.compile(r"scripted · \d+ tokens · \d+\.\d s"))
    expect(page.locator("#chats .spinner")).to_have_count(0)
    expect(page.locator("#announcer")).to_have_text("Answer finished")
    page.reload()
    assert page.evaluate(SHOWN) == whole


def test_finished_blocks_are_left_alone(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(tokens_per_second=150)
    page = open_page()
    register(page)
    ask(page)
    until(page, "document.querySelectorAll('[data-blocks] > div').length > 3")
    page.evaluate("document.querySelector('[data-blocks] > div').firstChild.marked = true")
    wait_for_end(page)
    assert page.evaluate("document.querySelector('[data-blocks] > div').firstChild.marked")


def test_a_reload_in_mid_answer_shows_all_before_and_goes_on(site: Site, open_page: Open) -> None:
    text = MARKDOWN * 4
    site.gateway.script = Script(text=text, tokens_per_second=40)
    page = open_page()
    register(page)
    ask(page)
    whole, reloads = _plain(page, text), 0
    # The same moments in every run.
    moments = random.Random(20)
    for _ in range(20):
        # Time passes on purpose: a reload may come at any moment.
        page.wait_for_timeout(moments.uniform(0, 400))
        before = str(page.evaluate(SHOWN))
        page.reload()
        # The page itself has what was stored, the stream the rest.
        until(page, f"({SHOWN}).length >= {len(before.rstrip())}")
        now = str(page.evaluate(SHOWN))
        # The last line may still be read in another way, such as a table that has only its first row.
        assert whole.startswith(now[:-80])
        reloads += now != whole
    assert reloads > 10
    wait_for_end(page, timeout=60_000)
    assert page.evaluate(SHOWN) == whole


def test_two_browsers_show_the_same(site: Site, open_page: Open, browser: object) -> None:
    site.gateway.script = Script(tokens_per_second=150)
    page = open_page()
    register(page)
    ask(page)
    page.wait_for_selector("[data-blocks] > div")
    other = open_page(storage_state=page.context.storage_state())
    other.goto(page.url)
    wait_for_end(page)
    wait_for_end(other)
    assert page.evaluate(SHOWN) == other.evaluate(SHOWN) == _plain(page, MARKDOWN)


def test_a_lost_connection_is_said_and_found_again(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(tokens_per_second=60)
    page = open_page()
    register(page)
    ask(page)
    until(page, "document.querySelectorAll('[data-blocks] > div').length > 2")
    site.kill("web")
    expect(page.locator("[data-status]")).to_have_text("Connection lost. The answer goes on, reconnecting")
    site.start_web()
    wait_for_end(page)
    assert page.evaluate(SHOWN) == _plain(page, MARKDOWN)


@pytest.mark.parametrize(
    ("loss", "says"), [("login", "Log in"), ("chat", "There is nothing here")], ids=["logged out", "deleted"]
)
def test_a_stream_that_is_refused_ends_on_a_page_that_says_why(
    site: Site, open_page: Open, loss: str, says: str
) -> None:
    site.gateway.script = Script(tokens_per_second=20)
    page = open_page()
    name = register(page)
    ask(page)
    page.wait_for_selector("[data-blocks] > div")
    site.kill("web")
    if loss == "login":
        page.context.clear_cookies()
    else:
        chats = f"Chat.objects.filter(user__username='{name}')"
        site.run("shell", "--command", f"from aiia_platform.chats.models import Chat; {chats}.delete()")
    site.start_web()
    expect(page.locator("h1")).to_have_text(says)


def test_escape_stops_and_retry_goes_on(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(tokens_per_second=40)
    page = open_page()
    register(page)
    ask(page)
    page.wait_for_selector("[data-blocks] > div")
    page.keyboard.press("Escape")
    wait_for_end(page)
    expect(page.locator("[data-footer]")).to_contain_text("Stopped by you")
    part = str(page.evaluate(SHOWN))
    assert 0 < len(part) < len(_plain(page, MARKDOWN))
    # Nobody reads from the model any more.
    site.gateway.wait_idle()
    site.gateway.script = Script()
    page.click("text=Retry")
    expect(page.locator("[data-footer]")).to_contain_text("scripted ·")
    assert page.evaluate(SHOWN) == _plain(page, MARKDOWN)
    assert page.locator("article").count() == 2


def test_the_stop_button_stops(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(tokens_per_second=40)
    page = open_page(**PHONE)
    register(page)
    ask(page)
    page.wait_for_selector("[data-blocks] > div")
    page.tap("[aria-label=Stop]")
    wait_for_end(page)
    expect(page.locator("[data-footer]")).to_contain_text("Stopped by you")
    expect(page.locator("[data-send]")).to_be_visible()


def test_a_failure_says_why_keeps_the_text_and_can_be_retried(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(error="The context is too long", error_after=30)
    page = open_page()
    register(page)
    ask(page)
    wait_for_end(page)
    expect(page.locator("[data-footer]")).to_contain_text("The context is too long")
    assert str(page.evaluate(SHOWN)).startswith("Rome was not built")
    site.gateway.script = Script()
    page.click("text=Retry")
    expect(page.locator("[data-footer]")).to_contain_text("scripted ·")
    assert page.evaluate(SHOWN) == _plain(page, MARKDOWN)


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ({"phase": "queued", "position": 3, "eta_s": 12}, "Queued: 3rd, about 12 s"),
        (
            {"phase": "starting", "state": "downloading", "progress": 0.62, "eta_s": 240},
            "Downloading 62 %, 4 min left",
        ),
        ({"phase": "starting", "state": "starting", "eta_s": 40}, "Starting scripted, about 40 s"),
    ],
)
def test_every_wait_is_visible(site: Site, open_page: Open, phase: dict[str, object], words: str) -> None:
    hold = threading.Event()
    site.gateway.script = Script(phases=[phase], hold=hold)
    page = open_page()
    register(page)
    ask(page)
    expect(page.locator("[data-status]")).to_have_text(words)
    hold.set()
    wait_for_end(page)


def test_thoughts_are_shown_apart(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(reasoning="First the <b>Forum</b>.", text="The Forum.")
    page = open_page()
    register(page)
    ask(page)
    wait_for_end(page)
    assert page.evaluate(SHOWN) == "The Forum.\n"
    page.click("text=Thoughts")
    expect(page.locator("[data-reasoning-text]")).to_have_text("First the <b>Forum</b>.")


def test_a_busy_chat_keeps_the_draft(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(tokens_per_second=40)
    page = open_page()
    register(page)
    ask(page)
    page.wait_for_selector("[data-blocks] > div")
    page.fill("#composer textarea", "And Naples?")
    page.keyboard.press("Enter")
    expect(page.locator("#composer-error")).to_contain_text("An answer is being written")
    expect(page.locator("#composer textarea")).to_have_value("And Naples?")
    page.keyboard.press("Escape")
    wait_for_end(page)
    page.click("[data-send]")
    expect(page.locator("article")).to_have_count(4)
    expect(page.locator("#composer-error")).to_be_empty()


def test_enter_sends_once_however_often_it_is_pressed(site: Site, open_page: Open) -> None:
    page = open_page()
    register(page)
    page.fill("#composer textarea", "One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Two")
    for _ in range(4):
        page.keyboard.press("Enter")
    wait_for_end(page)
    assert page.locator("article").count() == 2
    assert page.locator("article").first.inner_text().startswith("You\nOne\nTwo\n")


def test_the_page_follows_only_a_reader_at_its_end(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(text=MARKDOWN * 3, tokens_per_second=150)
    page = open_page()
    register(page)
    ask(page)
    at_end = "(b => b.scrollHeight - b.scrollTop - b.clientHeight < 90)(document.getElementById('scroller'))"
    until(page, "document.getElementById('scroller').scrollTop > 100")
    assert page.evaluate(at_end)
    page.mouse.move(800, 400)
    page.mouse.wheel(0, -3000)
    expect(page.locator("#newest")).to_be_visible()
    place = page.evaluate("document.getElementById('scroller').scrollTop")
    written = len(page.evaluate(SHOWN))
    until(page, f"({SHOWN}).length > {written + 100}")
    assert page.evaluate("document.getElementById('scroller').scrollTop") == place
    page.click("#newest")
    until(page, at_end)
    wait_for_end(page)
    assert page.evaluate(at_end)


def test_delete_asks_in_a_dialog(open_page: Open) -> None:
    page = open_page()
    register(page)
    ask(page, "Trip to Rome")
    wait_for_end(page)
    page.click("[aria-label='Delete chat']")
    expect(page.get_by_role("dialog")).to_contain_text("Delete “Trip to Rome”?")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.click("[aria-label='Delete chat']")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#toasts")).to_contain_text("Deleted “Trip to Rome”")
    expect(page.locator("#chats")).to_contain_text("No chats yet")


def test_the_model_is_shown_until_it_is_ready(site: Site, open_page: Open) -> None:
    starting = {"state": "starting", "reason": "Loading weights", "progress": 0.4, "eta_s": 40}
    site.gateway.script = Script(model=starting)
    page = open_page()
    # The list of models may be a second old.
    page.wait_for_timeout(1100)
    register(page)
    expect(page.locator("#model-state")).to_have_text("Starting Scripted, about 40 s")
    site.gateway.script = Script()
    expect(page.locator("#model-foot")).to_have_text("Scripted is ready")
    expect(page.locator("#model-state")).to_be_empty()


def test_back_leaves_the_chat_and_forward_returns(open_page: Open) -> None:
    page = open_page()
    register(page)
    ask(page)
    wait_for_end(page)
    page.go_back()
    expect(page.locator("#welcome")).to_be_visible()
    page.go_forward()
    expect(page.locator("[data-footer]")).to_contain_text("scripted ·")


def test_copy_puts_the_answer_into_the_clipboard(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(text="Paris.\n\n```py\nx = 1\n```\n")
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    register(page)
    ask(page)
    wait_for_end(page)
    page.click("[data-copy-answer]")
    until(page, "navigator.clipboard.readText().then(t => t.startsWith('Paris.'))")
    page.click(".code-copy")
    until(page, "navigator.clipboard.readText().then(t => t.trim() === 'x = 1')")
    expect(page.locator(".code-copy")).to_have_text("Copied")
