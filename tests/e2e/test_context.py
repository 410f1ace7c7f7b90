"""How full the context is, and the mark of a summary, in a real browser."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import ask, register, until, wait_for_end
from tests.e2e.gateway import MARKDOWN, READY, Script
from tests.e2e.site import Site

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]


def test_the_gauge_follows_each_answer(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(text="Start early, see more.")
    page = open_page()
    register(page)
    expect(page.locator("#gauge")).to_be_hidden()
    ask(page)
    # What the model counted: 12 tokens read, and six written.
    expect(page.locator("#gauge")).to_have_text("18 of 8,192 tokens of context")
    page.reload()
    page.click("#gauge a")
    expect(page.locator("h1")).to_have_text("What was sent")


def test_a_reader_at_the_end_stays_there_when_an_answer_is_finished(site: Site, open_page: Open) -> None:
    page = open_page()
    register(page)
    ask(page)
    wait_for_end(page)
    expect(page.locator("#gauge")).to_be_visible()
    until(page, "(box => box.scrollHeight - box.scrollTop - box.clientHeight < 2)(document.getElementById('scroller'))")
    expect(page.locator("#newest")).to_be_hidden()


def test_a_summary_is_marked_where_it_ends_as_soon_as_it_is_made(site: Site, open_page: Open) -> None:
    summary = "Rome was chosen, **three days** in April."
    says = {"Summarise the conversation": summary}
    site.gateway.script = Script(says=says, text=MARKDOWN, model=READY | {"max_model_len": 600})
    page = open_page()
    register(page)
    for question in ("What is there to see?", "And to eat?"):
        ask(page, question)
        wait_for_end(page)
    chat = page.url
    page.goto(f"{chat}edit/")
    page.select_option("[name=strategy]", "summary")
    page.click("text=Save")
    expect(page.locator("#summary-marker")).to_have_count(0)
    ask(page, "Where to sleep?")
    wait_for_end(page)
    mark = page.locator("#summary-marker")
    expect(mark.locator("summary")).to_contain_text("Older messages were summarised for the model")
    expect(mark.locator(".prose")).to_be_hidden()
    mark.locator("summary").click()
    expect(mark.locator("strong")).to_have_text("three days")
    before = page.evaluate("document.getElementById('summary-marker').previousElementSibling.id")
    mark.get_by_text("Read the messages in full").click()
    expect(page.locator(f"#{before}")).to_be_in_viewport()
    expect(page.locator("#summary-marker")).to_have_count(1)
