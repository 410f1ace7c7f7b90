"""The manager as a process, without Ray: remote endpoints, documents on disk, its HTTP interface."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import ROOT, FakeUpstream
from tests.fakes.control import INTERNAL_TOKEN
from tests.fakes.gateway import free_port

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


class ManagerProcess:
    def __init__(self, folder: Path, openai_base_url: str) -> None:
        self.documents = folder / "models"
        self.documents.mkdir()
        self.port = free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "serving"),
            "AIIA_DATA_DIR": str(folder),
            "AIIA_MODELS_DIR": str(self.documents),
            "AIIA_MANAGER_PORT": str(self.port),
            "AIIA_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "AIIA_NO_MODELS": "1",
            "OPENAI_BASE_URL": openai_base_url,
        }
        self.process = subprocess.Popen([sys.executable, "-m", "aiia_serving", "manager"], env=environment, cwd=ROOT)

    def wait(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 30) -> dict[str, Any]:
        """The first report, by model, that is as ``wanted``."""
        deadline, version, models = time.monotonic() + timeout, "", {}
        headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}"}
        while time.monotonic() < deadline:
            query = {"after": version, "wait": "2"}
            try:
                report = httpx.get(
                    f"http://127.0.0.1:{self.port}/state", params=query, headers=headers, timeout=10
                ).json()
            except httpx.ConnectError:
                assert self.process.poll() is None
                time.sleep(0.05)  # Its port is not open yet.
                continue
            version = report["version"]
            models = {model["id"]: model for model in report["models"]}
            if wanted(models):
                return models
        raise AssertionError(f"not reached within {timeout} s; last: {models}")


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["qwen/qwen3-8b", "llama"]) as upstream:
        yield upstream


@pytest.fixture
def manager(tmp_path: Path, upstream: FakeUpstream) -> Iterator[ManagerProcess]:
    manager = ManagerProcess(tmp_path, upstream.base_url)
    yield manager
    manager.process.terminate()
    assert manager.process.wait(10) == 0


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


def test_a_document_of_an_endpoint(manager: ManagerProcess, upstream: FakeUpstream) -> None:
    file = manager.documents / "remote.yaml"
    file.write_text(DOCUMENT % (upstream.base_url, "nope"))
    models = manager.wait(lambda models: models.get("remote", {}).get("state") == "failed")
    assert "has no model 'nope'; it lists llama, qwen/qwen3-8b" in models["remote"]["reason"]
    file.write_text(DOCUMENT % (upstream.base_url, "llama"))
    models = manager.wait(lambda models: models["remote"]["state"] == "ready")
    assert models["remote"]["upstream"]["model"] == "llama"
    file.write_text(DOCUMENT % (upstream.base_url, "llama") + "  gpus: 1\n")
    models = manager.wait(lambda models: models["remote"]["state"] == "failed")
    assert "remote.yaml: spec.gpus: Extra inputs are not permitted" in models["remote"]["reason"]
    file.unlink()
    manager.wait(lambda models: "remote" not in models)


def test_the_token_is_wanted(manager: ManagerProcess) -> None:
    manager.wait(bool)
    assert httpx.get(f"http://127.0.0.1:{manager.port}/state").status_code == 401
    assert httpx.get(f"http://127.0.0.1:{manager.port}/healthz").status_code == 200
