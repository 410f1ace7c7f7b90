"""An administrator adds, loads and scales models in a browser."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import DESKTOP, PASSWORD, PHONE, register
from tests.e2e.site import Site
from tests.e2e.test_frame import _axe as axe
from tests.fakes.manager import FakeManager
from tests.support import plugin

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]

ADMIN = "admin-of-models@example.org"


@pytest.fixture(scope="module")
def _admin(_site: Site) -> None:
    _site.run("create_user", "--email", ADMIN, "--password-stdin", "--admin", stdin=f"{PASSWORD}\n")


@pytest.fixture
def manager() -> Iterator[FakeManager]:
    with FakeManager(plugin.MANAGER_PORT) as running:
        running.set_model("qwen3-8b", title="Qwen3 8B", max_replicas=2)
        running.set_model("llama-1b", "cold", title="Llama 1B")
        running.add_to_catalogue("gemma-3-4b", title="Gemma 3 4B")
        running.add_to_catalogue("llama-70b", title="Llama 70B", fits=False, reason="Needs 141 GB of GPU memory")
        yield running


@pytest.fixture
def open_models(open_page: Open, manager: FakeManager, _admin: None) -> Open:
    """The page of models, as an administrator."""

    def open_models(**options: object) -> Page:
        page = open_page(**options)
        page.goto("/accounts/login/?next=/models/")
        page.fill("[name=login]", ADMIN)
        page.fill("[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("#models")
        return page

    return open_models


def test_one_click_adds_a_model_and_its_state_follows(open_models: Open, manager: FakeManager) -> None:
    page = open_models()
    page.get_by_role("button", name="Add Gemma 3 4B").click()
    row = page.locator("[data-model='gemma-3-4b']")
    expect(row).to_contain_text("Downloading 0 %")
    manager.set_model("gemma-3-4b", "downloading", progress=0.62, eta_s=240)
    expect(row).to_contain_text("Downloading 62 %, 4 min left")
    manager.set_model("gemma-3-4b", "ready", title="Gemma 3 4B")
    expect(row).to_contain_text("Ready")
    row.get_by_role("link", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator("#toasts")).to_contain_text("Removed gemma-3-4b")
    expect(row).to_have_count(0)


def test_a_form_that_is_being_filled_in_stays_while_states_change(open_models: Open, manager: FakeManager) -> None:
    manager.set_model("llama-1b", "starting", eta_s=40)
    page = open_models()
    row = page.locator("[data-model='qwen3-8b']")
    row.get_by_text("Replicas: 0 to 2").click()
    row.get_by_label("At most").fill("3")
    manager.set_model("llama-1b", "starting", eta_s=30)
    expect(page.locator("[data-model='llama-1b']")).to_contain_text("about 30 s")
    expect(row.get_by_label("At most")).to_have_value("3")
    row.get_by_label("At least").fill("4")
    row.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("must not be greater")
    row.get_by_label("At least").fill("1")
    row.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("Replicas: 1 to 3")


def test_without_scripts(open_models: Open, manager: FakeManager) -> None:
    page = open_models(java_script_enabled=False)
    page.locator("[data-model='llama-1b']").get_by_role("button", name="Load").click()
    expect(page.locator("#toasts")).to_contain_text("Starting llama-1b")
    expect(page.locator("[data-model='llama-1b']")).to_contain_text("Ready")


def test_the_page_outlives_the_manager(browser: Browser, site: Site) -> None:
    # Not `open_page`: the page is told with an error's status, which its console repeats.
    page = browser.new_context(base_url=site.url).new_page()
    with FakeManager(plugin.MANAGER_PORT) as manager:
        manager.set_model("qwen3-8b", "starting")
        register(page)
        page.goto("/models/")
        expect(page.locator("[data-model='qwen3-8b']")).to_contain_text("Starting")
    expect(page.locator("#models")).to_contain_text("The model manager does not answer")
    with FakeManager(plugin.MANAGER_PORT) as manager:
        manager.set_model("qwen3-8b", "ready")
        expect(page.locator("[data-model='qwen3-8b']")).to_contain_text("Ready", timeout=20_000)
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_everybody_can_use_it(open_models: Open, manager: FakeManager, device: dict[str, object], scheme: str) -> None:
    manager.set_model("broken", "failed", reason="Out of memory while loading " + "x" * 200)
    page = open_models(**device, color_scheme=scheme, reduced_motion="reduce")
    for summary in page.locator("#models summary").all():
        summary.click()
    assert axe(page) == []
    page.get_by_role("button", name="Add Gemma 3 4B").click()
    page.get_by_role("link", name="Remove").click()
    page.get_by_role("dialog").wait_for()
    assert axe(page) == []


@pytest.mark.parametrize("width", [320, 390])
def test_it_does_not_scroll_sideways(open_models: Open, manager: FakeManager, width: int) -> None:
    manager.set_model("broken", "failed", reason="Out of memory while loading " + "x" * 200)
    page = open_models(**(PHONE | {"viewport": {"width": width, "height": 700}}))
    for summary in page.locator("#models summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for box in page.locator("[role=region]").all():
        assert box.evaluate("b => b.scrollWidth <= b.clientWidth")
