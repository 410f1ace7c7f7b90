"""The manager as a process, without Ray: remote endpoints, documents on disk, its HTTP interface."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aiia_serving.manager.manager import Manager
from tests.fakes import FakeUpstream
from tests.support.manager import ManagerProcess

pytestmark = pytest.mark.integration

DOCUMENT = """
apiVersion: aiia.dev/v1
kind: Model
metadata: {name: remote}
spec:
  title: Remote
  task: chat
  engine: openai
  source: {url: "%s", model: %s}
"""


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["qwen/qwen3-8b", "llama"]) as upstream:
        yield upstream


@pytest.fixture
def manager(tmp_path: Path, upstream: FakeUpstream) -> Iterator[ManagerProcess]:
    manager = ManagerProcess(tmp_path, AIIA_NO_MODELS="1", OPENAI_BASE_URL=upstream.base_url)
    yield manager
    assert manager.stop() == 0


def test_all_models_of_an_endpoint_appear_and_follow_it(manager: ManagerProcess, upstream: FakeUpstream) -> None:
    models = manager.wait(lambda models: set(models) == {"qwen/qwen3-8b", "llama"})
    assert models["llama"]["state"] == "ready"
    assert models["llama"]["upstream"]["base_url"] == upstream.base_url
    assert not models["llama"]["exact_continuation"]
    upstream.kill()
    models = manager.wait(lambda models: models["llama"]["state"] == "failed")
    assert "cannot be reached" in models["llama"]["reason"]
    upstream.start()
    manager.wait(lambda models: models["llama"]["state"] == "ready")
    upstream.control(models=["llama"])
    manager.wait(lambda models: set(models) == {"llama"})


def test_a_moment_without_an_answer_fails_nobody(manager: ManagerProcess, upstream: FakeUpstream) -> None:
    manager.wait(lambda models: "llama" in models)
    upstream.control(require_key="another")
    models = manager.wait(lambda models: models["llama"]["reason"])
    assert (models["llama"]["state"], "refuses the API key" in models["llama"]["reason"]) == ("ready", True)
    upstream.control(require_key=None)
    manager.wait(lambda models: models["llama"]["reason"] is None)
    events = manager.request("GET", "/events").json()["events"]
    assert [event["state"] for event in events if event["model"] == "llama"] == ["ready"]


def test_a_document_goes_before_what_an_endpoint_lists(manager: ManagerProcess, upstream: FakeUpstream) -> None:
    manager.wait(lambda models: "llama" in models)
    file = manager.documents / "mine.yaml"
    file.write_text((DOCUMENT % (upstream.base_url, "llama")).replace("name: remote", "name: llama"))
    manager.wait(lambda models: models["llama"]["title"] == "Remote")
    upstream.control(models=["llama", "new"])
    assert manager.wait(lambda models: "new" in models)["llama"]["title"] == "Remote"
    upstream.control(models=["new"])
    manager.wait(lambda models: models["llama"]["state"] == "failed")
    upstream.control(models=["llama"])
    assert manager.wait(lambda models: "new" not in models)["llama"]["title"] == "Remote"
    file.unlink()
    manager.wait(lambda models: models.get("llama", {}).get("title") == "llama")


def test_a_document_of_an_endpoint(manager: ManagerProcess, upstream: FakeUpstream) -> None:
    file = manager.documents / "remote.yaml"
    file.write_text(DOCUMENT % (upstream.base_url, "nope"))
    models = manager.wait(lambda models: models.get("remote", {}).get("state") == "failed")
    assert "has no model 'nope'; it lists llama, qwen/qwen3-8b" in models["remote"]["reason"]
    file.write_text(DOCUMENT % (upstream.base_url, "llama"))
    models = manager.wait(lambda models: models["remote"]["state"] == "ready")
    assert models["remote"]["upstream"]["model"] == "llama"
    file.write_text(DOCUMENT % (upstream.base_url, "llama") + "  gpus: 1\n")
    # A mistake leaves the model as it was before.
    models = manager.wait(lambda models: models["remote"]["reason"])
    assert "remote.yaml: spec.gpus: Extra inputs are not permitted" in models["remote"]["reason"]
    assert models["remote"]["state"] == "ready"
    file.unlink()
    manager.wait(lambda models: "remote" not in models)


def test_the_token_is_wanted(manager: ManagerProcess) -> None:
    manager.wait(bool)
    assert httpx.get(f"{manager.url}/state").status_code == 401
    assert httpx.post(f"{manager.url}/models/llama/load").status_code == 401
    assert httpx.get(f"{manager.url}/healthz").status_code == 200


async def test_it_ends_when_told_so_together_with_other_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.yaml").write_text("[")
    for name, value in (("NO_MODELS", "1"), ("MODELS_DIR", str(tmp_path)), ("DATA_DIR", str(tmp_path))):
        monkeypatch.setenv(f"AIIA_{name}", value)
    manager = Manager.from_environment()
    running = asyncio.create_task(manager.run())
    await manager.board.wait(manager.board.report().version, 10)
    # It waits for news now, and hears of both before it goes on.
    await asyncio.sleep(0)
    manager.look()
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running}, timeout=10)
    assert running.cancelled()
