"""The manager's verbs over HTTP, with real documents and without Ray: local models wait for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes import FakeUpstream
from tests.support.manager import ManagerProcess

pytestmark = pytest.mark.integration


def document(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"task": "chat", "engine": "vllm", "source": {"path": "/nowhere"}, **spec}
    return {"apiVersion": "aiia.dev/v1", "kind": "Model", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["far"]) as upstream:
        yield upstream


@pytest.fixture
def manager(tmp_path: Path, upstream: FakeUpstream) -> Iterator[ManagerProcess]:
    manager = ManagerProcess(tmp_path, OPENAI_BASE_URL=upstream.base_url)
    (manager.packaged / "demo.yaml").write_text(yaml.safe_dump(document("demo")))
    (manager.packaged / "cold.yaml").write_text(yaml.safe_dump(document("cold", scaling={"minReplicas": 0})))
    manager.wait(lambda models: {"demo", "cold", "far"} <= models.keys())
    yield manager
    assert manager.stop() == 0


def test_local_models_wait_for_ray_or_for_a_request(manager: ManagerProcess) -> None:
    models = manager.wait(bool)
    assert models["demo"]["state"] == "starting"
    assert models["demo"]["reason"] == "Waiting for Ray"
    assert models["cold"]["state"] == "cold"
    assert models["cold"]["starts_on_demand"]
    assert (models["cold"]["min_replicas"], models["cold"]["max_replicas"]) == (0, 1)
    assert "chat" in models["demo"]["capabilities"]


def test_a_wish_outlives_the_manager(manager: ManagerProcess) -> None:
    assert manager.request("POST", "/models/demo/unload").status_code == 202
    assert manager.request("POST", "/models/cold/load").status_code == 202
    assert manager.request("POST", "/models/cold/scale", json={"max_replicas": 3}).status_code == 202

    def wished(models: dict[str, Any]) -> bool:
        return (
            (models["demo"]["state"], models["demo"]["reason"]) == ("cold", "Unloaded by an administrator")
            and not models["demo"]["starts_on_demand"]
            and (models["cold"]["min_replicas"], models["cold"]["max_replicas"]) == (1, 3)
            and models["cold"]["state"] == "starting"
        )

    manager.wait(wished)
    manager.stop()
    manager.start()
    manager.wait(lambda models: {"demo", "cold"} <= models.keys() and wished(models))
    assert manager.request("POST", "/models/demo/load").status_code == 202
    manager.wait_state("demo", "starting")
    assert manager.request("POST", "/models/cold/scale", json={"min_replicas": 0}).status_code == 202
    assert manager.wait_state("cold", "cold")["reason"] == "Starts with the first request"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("POST", "/models/nobody/load", None, 404, "nobody"),
        ("POST", "/models/far/load", None, 409, "far"),
        ("POST", "/models/far/scale", {"min_replicas": 1}, 409, "far"),
        ("POST", "/models/demo/scale", {"min_replicas": 3, "max_replicas": 2}, 422, "greater"),
        ("POST", "/models/demo/scale", {"min_replicas": -1}, 422, "mistake"),
        ("POST", "/models/demo/scale", {"replicas": 1}, 422, "mistake"),
        ("DELETE", "/models/demo", None, 409, "comes with aiia"),
        ("DELETE", "/models/nobody", None, 404, "nobody"),
        ("PUT", "/models/other", document("mine"), 422, "names the model other"),
        ("POST", "/models/far%2Faway/load", None, 404, "far/away"),
        ("POST", "/catalogue/nothing", None, 404, "nothing"),
        ("POST", "/catalogue/qwen3-8b", {"overrides": {"spec": {"task": "poetry"}}}, 422, "mistake"),
        ("GET", "/events?wait=soon", None, 422, "seconds"),
        ("GET", "/nothing", None, 404, "Not Found"),
    ],
)
def test_what_cannot_be_is_a_problem(
    manager: ManagerProcess, method: str, path: str, body: Any, status: int, word: str
) -> None:
    answer = manager.request(method, path, json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["status"] == status
    assert word in answer.json()["detail"]


def test_documents_come_and_go_over_http(manager: ManagerProcess) -> None:
    text = "# Mine.\n" + yaml.safe_dump(document("mine"))
    assert manager.request("PUT", "/models/mine", content=text).status_code == 201
    manager.wait_state("mine", "starting")
    assert (manager.documents / "mine.yaml").read_text() == text
    changed = document("mine", title="My own", scaling={"minReplicas": 0})
    assert manager.request("PUT", "/models/mine", json=changed).status_code == 204
    assert manager.wait_state("mine", "cold")["title"] == "My own"
    bad = document("mine", scaling={"minReplicas": -1}, taste="sweet")
    answer = manager.request("PUT", "/models/mine", json=bad)
    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == {"spec.scaling.minReplicas", "spec.taste"}
    assert manager.request("PUT", "/models/mine", content="a: [").status_code == 422
    assert yaml.safe_load((manager.documents / "mine.yaml").read_text()) == changed
    assert manager.request("DELETE", "/models/mine").status_code == 204
    manager.wait(lambda models: "mine" not in models)


def test_a_document_of_the_same_name_takes_the_place_of_the_packaged_one(manager: ManagerProcess) -> None:
    assert manager.request("PUT", "/models/demo", json=document("demo", title="Other")).status_code == 201
    manager.wait(lambda models: models["demo"]["title"] == "Other")
    assert manager.request("DELETE", "/models/demo").status_code == 204
    manager.wait(lambda models: models["demo"]["title"] == "demo")


def test_a_file_of_several_documents_is_left_to_its_owner(manager: ManagerProcess) -> None:
    file = manager.documents / "several.yaml"
    file.write_text(yaml.safe_dump_all([document("one"), document("two")]))
    manager.wait(lambda models: {"one", "two"} <= models.keys())
    assert manager.request("DELETE", "/models/one").status_code == 409
    assert str(file) in manager.request("PUT", "/models/two", json=document("two")).json()["detail"]


def test_a_new_document_takes_the_place_of_no_other(manager: ManagerProcess) -> None:
    file = manager.documents / "mine.yaml"
    file.write_text(text := yaml.safe_dump(document("assistant")))
    manager.wait_state("assistant", "starting")
    assert manager.request("PUT", "/models/mine", json=document("mine")).status_code == 201
    manager.wait_state("mine", "starting")
    assert file.read_text() == text
    assert manager.request("PUT", "/models/mine", json=document("mine", title="Mine")).status_code == 204
    manager.wait(lambda models: models["mine"]["title"] == "Mine")
    assert manager.request("DELETE", "/models/mine").status_code == 204
    models = manager.wait(lambda models: "mine" not in models)
    assert models["assistant"]["state"] == "starting"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(yaml.safe_dump_all([document("chat", task="poetry"), document("embed")]), id="a mistake in one"),
        pytest.param(yaml.safe_dump_all([document("embed"), {"kind": "Model"}]), id="one without a name"),
        pytest.param(yaml.safe_dump(document("embed", task="poetry")), id="another one with a mistake"),
        pytest.param(yaml.safe_dump(document("embed")) + "---\nmetadata: {name: chat\n", id="not readable"),
    ],
)
def test_a_file_with_a_mistake_is_no_less_its_owners(manager: ManagerProcess, text: str) -> None:
    file = manager.documents / "chat.yaml"
    file.write_text(text)
    manager.wait_state("chat", "failed")
    answer = manager.request("DELETE", "/models/chat")
    assert (answer.status_code, str(file) in answer.json()["detail"]) == (409, True)
    manager.request("PUT", "/models/chat", json=document("chat"))
    assert file.read_text() == text


def test_a_refused_document_leaves_the_others_alone_and_can_be_removed(manager: ManagerProcess) -> None:
    (manager.documents / "bad.yaml").write_text(yaml.safe_dump(document("bad", task="poetry")))
    assert "spec.task" in manager.wait_state("bad", "failed")["reason"]
    assert manager.request("POST", "/models/bad/load").status_code == 409
    assert manager.request("DELETE", "/models/bad").status_code == 204
    models = manager.wait(lambda models: "bad" not in models)
    assert {"demo", "cold", "far"} <= models.keys()


def test_a_mistake_in_the_document_of_a_model_leaves_the_model(manager: ManagerProcess) -> None:
    file = manager.documents / "mine.yaml"
    file.write_text(yaml.safe_dump(document("mine", title="My own")))
    manager.wait_state("mine", "starting")
    file.write_text(yaml.safe_dump(document("mine", task="poetry", title="Worse")))
    mine = manager.wait(lambda models: models["mine"]["reason"] and "spec.task" in models["mine"]["reason"])["mine"]
    assert (mine["state"], mine["title"]) == ("starting", "My own")
    file.write_text(yaml.safe_dump(document("mine", title="Better")))
    mine = manager.wait(lambda models: models["mine"]["title"] == "Better")["mine"]
    assert "spec.task" not in (mine["reason"] or "")


def test_events_tell_every_change_of_state(manager: ManagerProcess) -> None:
    before = manager.request("GET", "/events").json()
    assert {event["model"] for event in before["events"]} == {"demo", "cold", "far"}
    assert [event["n"] for event in before["events"]] == list(range(1, before["last"] + 1))
    manager.request("POST", "/models/demo/unload")
    news = manager.request("GET", "/events", params={"after": before["last"], "wait": 20}).json()
    (event,) = news["events"]
    assert (event["model"], event["previous"], event["state"]) == ("demo", "starting", "cold")
    assert event["reason"] == "Unloaded by an administrator"
    assert news["last"] == before["last"] + 1
    none = manager.request("GET", "/events", params={"after": news["last"], "wait": 0}).json()
    assert none == {"last": news["last"], "events": []}
    # A number from before a restart of the manager means all there is.
    assert manager.request("GET", "/events", params={"after": 10_000}).json()["last"] == news["last"]


def test_what_is_not_here_is_pulled_and_its_failure_told(manager: ManagerProcess) -> None:
    source = {"package": "no-such-package"}
    assert manager.request("PUT", "/models/lost", json=document("lost", source=source)).status_code == 201
    assert "no-such-package" in manager.wait_state("lost", "failed")["reason"]
    assert manager.request("POST", "/models/lost/unload").status_code == 202
    manager.wait_state("lost", "cold")
    assert manager.request("POST", "/models/lost/pull").status_code == 202


def test_a_ready_document_becomes_the_owners(manager: ManagerProcess) -> None:
    catalogue = manager.request("GET", "/catalogue").json()
    assert catalogue["machine"]["memory_bytes"] > 0
    offers = {model["id"]: model for model in catalogue["models"]}
    assert not any(offer["added"] for offer in offers.values())
    offer = offers["bge-small-en"]
    assert {"title", "task", "license", "parameters", "fits", "reason", "precision", "max_model_len"} <= offer.keys()
    assert offer["download_bytes"] > 0
    # Nothing is downloaded in this test: its files are said to be here.
    overrides = {"spec": {"source": {"huggingface": None, "path": "/nowhere"}, "scaling": {"maxReplicas": 2}}}
    assert manager.request("POST", "/catalogue/bge-small-en", json={"overrides": overrides}).status_code == 201
    state = manager.wait_state("bge-small-en", "cold")
    assert (state["engine"], state["max_replicas"], state["capabilities"]) == ("embedding", 2, ["embeddings"])
    assert manager.request("POST", "/catalogue/bge-small-en").status_code == 409
    catalogue = manager.request("GET", "/catalogue").json()
    assert [model["id"] for model in catalogue["models"] if model["added"]] == ["bge-small-en"]
    assert manager.request("DELETE", "/models/bge-small-en").status_code == 204
