"""What goes on while the files of a changed document come: the manager without Ray, with a hub of the test's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.hub import FakeHub, Repository
from tests.support.manager import ManagerProcess

pytestmark = pytest.mark.integration


def document(**spec: Any) -> dict[str, Any]:
    spec = {"task": "chat", "engine": "vllm", "source": {"path": "/nowhere"}, "title": "Before", **spec}
    return {"apiVersion": "aiia.dev/v1", "kind": "Model", "metadata": {"name": "demo"}, "spec": spec}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repositories["org/new"] = Repository({"config.json": b"{}", "model.safetensors": b"weights" * 1000})
        hub.hold.clear()
        yield hub


@pytest.fixture
def manager(tmp_path: Path, hub: FakeHub) -> Iterator[ManagerProcess]:
    manager = ManagerProcess(tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"), HF_TOKEN="")
    assert manager.request("PUT", "/models/demo", json=document()).status_code == 201
    manager.wait_state("demo", "starting")
    yield manager
    hub.hold.set()
    assert manager.stop() == 0


def states(manager: ManagerProcess, model: str) -> list[str]:
    events = manager.request("GET", "/events").json()["events"]
    return [event["state"] for event in events if event["model"] == model]


def test_a_model_is_as_it_was_until_the_files_of_its_new_document_are_here(
    manager: ManagerProcess, hub: FakeHub
) -> None:
    changed = document(title="After", source={"huggingface": "org/new"})
    assert manager.request("PUT", "/models/demo", json=changed).status_code == 204
    assert hub.held.wait(30)
    told = "Goes on as it was until its new files are here: Downloading"
    demo = manager.wait(lambda models: told in models["demo"]["reason"])["demo"]
    assert (demo["title"], demo["state"]) == ("Before", "starting")
    hub.hold.set()
    manager.wait(lambda models: (models["demo"]["title"], models["demo"]["reason"]) == ("After", "Waiting for Ray"))
    assert states(manager, "demo") == ["starting"]


def test_a_new_adapter_is_on_its_way_and_its_base_is_not(manager: ManagerProcess, hub: FakeHub) -> None:
    changed = document(vllm={"loras": [{"name": "style", "source": {"huggingface": "org/new"}}]})
    assert manager.request("PUT", "/models/demo", json=changed).status_code == 204
    style = manager.wait_state("style", "downloading")
    assert (style["base"], style["upstream"]["model"]) == ("demo", "style")
    hub.hold.set()
    manager.wait_state("style", "starting")
    assert states(manager, "demo") == ["starting"]


def test_a_model_goes_on_when_its_new_files_cannot_be_had(manager: ManagerProcess) -> None:
    changed = document(title="After", source={"huggingface": "org/none"})
    assert manager.request("PUT", "/models/demo", json=changed).status_code == 204
    demo = manager.wait(lambda models: "there is no model org/none" in models["demo"]["reason"])["demo"]
    assert (demo["title"], demo["state"]) == ("Before", "starting")
    # An unloaded model has nothing that could go on.
    manager.request("POST", "/models/demo/unload")
    manager.wait(lambda models: (models["demo"]["title"], models["demo"]["state"]) == ("After", "cold"))
