"""What a model says of a chat after its answer, in a real browser."""

import json
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import PHONE, ask, register, wait_for_end
from tests.e2e.gateway import Script
from tests.e2e.site import Site

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]

#: What only the question of an afterword has in it.
ASKED = "Here is a conversation"
QUESTIONS = ["Where should I stay in Rome?", "Is April a good month?", "What does it cost?"]
ABOUT = json.dumps({"title": "Rome in Spring", "tags": ["rome"], "questions": QUESTIONS})


@pytest.fixture
def talkative(site: Site) -> Iterator[Site]:
    """The site with a worker that has models say more than their answers."""
    site.kill("worker")
    site.start_worker(AIIA_TITLES="1", AIIA_TAGS="1", AIIA_FOLLOW_UPS="1")
    yield site
    site.kill("worker")
    site.start_worker()


def test_title_and_questions_arrive_without_a_reload(talkative: Site, open_page: Open) -> None:
    talkative.gateway.script = Script(text="Start early.", says={ASKED: ABOUT})
    page = open_page()
    register(page)
    ask(page)
    expect(page).to_have_title("Rome in Spring · aiia")
    expect(page.locator("#chats [aria-current=page]")).to_have_text("Rome in Spring")
    expect(page.locator("#chat-title")).to_have_text("Rome in Spring")
    buttons = page.locator("#follow-ups button")
    expect(buttons).to_have_text(QUESTIONS)
    # What is typed meanwhile stays; the question goes alone.
    page.fill("#composer textarea", "Half a thought")
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#messages > article").nth(2)).to_contain_text(QUESTIONS[1])
    expect(page.locator("#composer textarea")).to_have_value("Half a thought")
    expect(page.locator("#composer textarea")).to_be_focused()
    wait_for_end(page)
    expect(page.locator("#messages > article")).to_have_count(4)
    expect(page.locator("#follow-ups")).to_have_count(1)
    expect(page.locator("#messages > article + #follow-ups")).to_be_visible()


def test_a_page_that_was_opened_meanwhile_gets_them_too(talkative: Site, open_page: Open) -> None:
    talkative.gateway.script = Script(text="Start early.", says={ASKED: ABOUT})
    page = open_page()
    register(page)
    # The afterword is slow, the answer is not.
    talkative.gateway.script = Script(text="Start early.", says={ASKED: ABOUT + " " * 600}, tokens_per_second=50)
    ask(page)
    wait_for_end(page)
    page.reload()
    expect(page.locator("#follow-ups")).to_have_count(0)
    expect(page.locator("#composer")).not_to_have_attribute("data-running", "")
    expect(page.locator("#follow-ups button")).to_have_text(QUESTIONS)
    expect(page).to_have_title("Rome in Spring · aiia")


def test_they_are_plain_forms_without_scripts(talkative: Site, open_page: Open) -> None:
    talkative.gateway.script = Script(text="Start early.", says={ASKED: ABOUT})
    page = open_page()
    register(page)
    ask(page)
    expect(page.locator("#follow-ups button")).to_have_count(3)
    plain = open_page(java_script_enabled=False, storage_state=page.context.storage_state(), **PHONE)
    plain.goto(page.url)
    plain.click(f"text={QUESTIONS[2]}")
    expect(plain.locator("#messages > article").nth(2)).to_contain_text(QUESTIONS[2])
