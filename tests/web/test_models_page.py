"""The page of models, in front of a manager that really listens."""

import re
from collections.abc import Iterator

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from aiia_platform.accounts.models import User
from aiia_platform.gateway import ModelInfo
from tests.fakes.manager import HELD, FakeManager
from tests.support import plugin
from tests.web.conftest import model

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]


@pytest.fixture
def manager() -> Iterator[FakeManager]:
    with FakeManager(plugin.MANAGER_PORT) as running:
        running.set_model("qwen3-8b", title="Qwen3 8B", max_replicas=2)
        running.set_model("llama-1b", "cold", title="Llama 1B")
        running.add_to_catalogue("gemma-3-4b", title="Gemma 3 4B")
        running.add_to_catalogue("llama-70b", title="Llama 70B", fits=False, reason="Needs 141 GB of GPU memory")
        yield running


@pytest.fixture
def admin(user: User) -> User:
    user.is_staff = True
    user.save()
    return user


def html(response: object) -> str:
    return re.sub(r"\s+", " ", response.content.decode())  # type: ignore[attr-defined]


def test_everybody_sees_the_states_and_nothing_to_press(manager: FakeManager, page: Client) -> None:
    text = html(page.get("/models/"))
    assert "Qwen3 8B" in text
    assert "Asleep, starts with the first message" in text
    assert "Unload" not in text
    assert "Fits this machine" not in text
    assert 'href="/models/"' in html(page.get("/"))
    for address in ("qwen3-8b/unload/", "catalogue/gemma-3-4b/add/", "qwen3-8b/remove/", "qwen3-8b/scale/"):
        assert page.post(f"/models/{address}").status_code == 403
    assert page.get("/models/qwen3-8b/remove/").status_code == 403
    assert manager.calls == []


def test_where_image_models_are_and_why(manager: FakeManager, page: Client) -> None:
    manager.set_model("flux", task="image", held=[HELD])
    away = {**HELD, "place": "away", "quantization": "none", "offload": "none"}
    manager.set_model("sdxl", task="image", base="flux", held=[away])
    manager.set_model("torn", task="image", base="flux", held=[{**HELD, "problem": "It is torn."}])
    text = html(page.get("/models/"))
    assert (
        "On the GPU · 5.1 GB as bfloat16 · network in 8 bits · text encoders in main memory · brought in 41 s" in text
    )
    assert "fit the 16 GB of the GPU" in text
    assert "Not in memory · 5.1 GB as bfloat16 · brought in 41 s" in text
    assert "on the replicas of flux" in text
    assert "Not loaded: It is torn" in text


def test_strangers_log_in_first(manager: FakeManager, db: None) -> None:
    assert Client().get("/models/")["Location"] == "/accounts/login/?next=/models/"
    assert "/accounts/login/" in Client().post("/models/qwen3-8b/unload/")["Location"]
    assert manager.calls == []


@pytest.mark.usefixtures("admin")
class TestAdministrators:
    def test_see_what_fits(self, manager: FakeManager, page: Client) -> None:
        text = html(page.get("/models/"))
        assert "No GPU, 2 processors, 25.8 GB of memory, 96.6 GB of disk free." in text
        assert 'action="/models/catalogue/gemma-3-4b/add/"' in text
        assert "1 that do not fit" in text
        assert "Needs 141 GB of GPU memory" in text
        assert "/models/catalogue/llama-70b/add/" not in text
        assert 'href="/models/"' in html(page.get("/"))

    def test_change_models_without_scripts(self, manager: FakeManager, page: Client) -> None:
        for address, form, call in (
            ("llama-1b/load/", {}, "POST /models/llama-1b/load"),
            ("llama-1b/unload/", {}, "POST /models/llama-1b/unload"),
            ("catalogue/gemma-3-4b/add/", {}, "POST /catalogue/gemma-3-4b"),
            ("llama-1b/scale/", {"min_replicas": 1, "max_replicas": 3}, "POST /models/llama-1b/scale"),
            ("gemma-3-4b/remove/", {}, "DELETE /models/gemma-3-4b"),
        ):
            assert page.post(f"/models/{address}", form)["Location"] == "/models/"
            assert manager.calls[-1][0] == call
        assert manager.calls[-2][1] == {"min_replicas": 1, "max_replicas": 3}
        assert "Removed gemma-3-4b" in html(page.get("/models/"))

    def test_change_models_with_htmx(self, manager: FakeManager, fragment: Client) -> None:
        response = fragment.post("/models/catalogue/gemma-3-4b/add/")
        text = html(response)
        assert response["HX-Retarget"] == "#models"
        assert "<html" not in text
        assert "Downloading 0 %" in text
        assert "Added" in text
        assert "every 2s" in text

    def test_removing_asks_first_and_names_the_model(
        self, manager: FakeManager, page: Client, fragment: Client
    ) -> None:
        assert "Remove “qwen3-8b”?" in html(page.get("/models/qwen3-8b/remove/"))
        assert html(fragment.get("/models/qwen3-8b/remove/")).startswith("<dialog")
        assert manager.calls == []

    def test_only_what_was_added_can_be_removed(self, manager: FakeManager, page: Client) -> None:
        page.post("/models/catalogue/gemma-3-4b/add/")
        text = html(page.get("/models/"))
        assert "/models/gemma-3-4b/remove/" in text
        assert "/models/qwen3-8b/remove/" not in text

    def test_a_mistake_stands_at_its_field(self, manager: FakeManager, page: Client, fragment: Client) -> None:
        response = page.post("/models/qwen3-8b/scale/", {"min_replicas": 5, "max_replicas": 2})
        assert response.status_code == 422
        text = html(response)
        assert "must not be greater than max_replicas" in text
        assert 'value="5"' in text
        assert '<details class="text-sm" open>' in text
        response = fragment.post("/models/qwen3-8b/scale/", {"min_replicas": "many", "max_replicas": 2})
        assert response.status_code == 422
        assert "Enter a whole number." in html(response)
        assert "<html" not in html(response)

    def test_a_refusal_is_told(self, manager: FakeManager, page: Client, fragment: Client) -> None:
        response = page.post("/models/qwen3-8b/remove/")
        assert response.status_code == 409
        assert "qwen3-8b is packaged with aiia." in html(response)
        assert "Llama 1B" in html(response)
        response = fragment.post("/models/qwen3-8b/remove/")
        assert (response.status_code, response["HX-Retarget"]) == (409, "#toasts")
        assert "qwen3-8b is packaged with aiia." in html(response)

    def test_remote_models_and_adapters_are_only_shown(self, manager: FakeManager, page: Client) -> None:
        manager.models.clear()
        manager.set_model("qwen/qwen3 8b", engine="openai")
        manager.set_model("pirate", base="qwen3-8b")
        text = html(page.get("/models/"))
        assert "at a remote endpoint" in text
        assert "an adapter of qwen3-8b" in text
        assert "Unload" not in text
        assert "Replicas" not in text
        assert page.post("/models/qwen/qwen3%208b/load/").status_code == 409

    def test_a_manager_without_a_catalogue_costs_only_that(self, manager: FakeManager, page: Client) -> None:
        manager.has_catalogue = False
        text = html(page.get("/models/"))
        assert "Qwen3 8B" in text
        assert "There is no such address." in text


def test_a_page_asks_for_states_and_keeps_the_rest(manager: FakeManager, page: Client, fragment: Client) -> None:
    have = re.search(r"\?have=(\w+)", html(page.get("/models/")))
    assert have
    text = html(fragment.get(f"/models/?have={have[1]}"))
    assert 'id="model-status-1"' in text
    assert 'hx-swap-oob="true"' in text
    assert "<ul" not in text
    manager.set_model("llama-1b", "starting", eta_s=40)
    response = fragment.get(f"/models/?have={have[1]}")
    assert response["HX-Retarget"] == "#models"
    assert "Starting Llama 1B, about 40 s" in html(response)


def test_without_a_manager_the_page_says_what_to_do_and_comes_back(page: Client, fragment: Client) -> None:
    response = page.get("/models/")
    assert response.status_code == 503
    text = html(response)
    assert "The model manager does not answer" in text
    assert "Try again" in text
    have = re.search(r"\?have=(\w+)", text)
    assert have
    assert fragment.get(f"/models/?have={have[1]}").status_code == 503
    with FakeManager(plugin.MANAGER_PORT):
        response = fragment.get(f"/models/?have={have[1]}")
        assert response.status_code == 200
        assert "No models yet." in html(response)


def test_the_number_of_models_costs_no_queries(
    manager: FakeManager, page: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(30):
        manager.set_model(f"model-{number}")
    with django_assert_max_num_queries(3):  # session, user, chats in the sidebar
        page.get("/models/")


def test_a_cold_model_can_be_chosen_and_says_that_it_starts(page: Client, models: list[ModelInfo]) -> None:
    models[:] = [model("qwen3-8b", "cold"), model("llama-1b", "cold", starts_on_demand=False)]
    text = html(page.get("/"))
    assert '<option value="qwen3-8b" selected>' in text
    assert "Asleep, starts with the first message" in text
    assert "every 10s" in text
    assert "Unloaded" in html(page.get("/models/state/?model=llama-1b"))


def test_nothing_is_inline(manager: FakeManager, page: Client, admin: User) -> None:
    for address in ("/models/", "/models/qwen3-8b/remove/"):
        response = page.get(address)
        assert "unsafe" not in response["Content-Security-Policy"]
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", response.content.decode())
