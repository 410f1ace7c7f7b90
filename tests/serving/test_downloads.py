"""Downloads of model files: once, resumed, checked, and in words when they fail. Against a hub of the test's own."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiia_serving.engines.hub import wanted
from tests.fakes import ROOT
from tests.fakes.gateway import free_port
from tests.fakes.hub import FakeHub, Repository

pytestmark = pytest.mark.integration

WEIGHTS = random.Random(0).randbytes(3_000_000)
FILES = {
    "config.json": b'{"max_position_embeddings": 2048}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same in another form",
    "original/consolidated.00.pth": b"and another",
    "README.md": b"# A model",
}


class Cache:
    """A model cache of the test's own, and ``aiia_serving prepare`` as processes that fill it."""

    def __init__(self, folder: Path, hub_url: str) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "serving"),
            "AIIA_MODEL_CACHE": str(folder),
            "HF_ENDPOINT": hub_url,
            "HF_HOME": str(folder / "home"),
        }
        self._environment.pop("HF_TOKEN", None)

    def start(self, name: str = "org/model", **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "aiia_serving", "prepare", "--json", f"huggingface:{name}"],
            env=self._environment | environment,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def prepare(self, name: str = "org/model", **environment: str) -> list[dict[str, Any]]:
        output, errors = self.start(name, **environment).communicate(timeout=60)
        assert errors == ""
        return [json.loads(line) for line in output.splitlines()]

    def refusal(self, name: str = "org/model", **environment: str) -> str:
        """What a failed attempt says last."""
        process = self.start(name, **environment)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        return errors.strip().splitlines()[-1]

    @property
    def files(self) -> dict[str, bytes]:
        model = self.folder / "hub" / "org--model@main"
        return {file.relative_to(model).as_posix(): file.read_bytes() for file in model.rglob("*") if file.is_file()}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repositories["org/model"] = Repository(dict(FILES))
        yield hub


@pytest.fixture
def cache(tmp_path: Path, hub: FakeHub) -> Cache:
    return Cache(tmp_path, hub.url)


def test_what_engines_load_is_fetched_once(hub: FakeHub, cache: Cache) -> None:
    steps = cache.prepare()
    assert steps[-1] == {"progress": 1.0, "reason": "Ready"}
    assert [step["progress"] for step in steps] == sorted(step["progress"] for step in steps)
    files = cache.files
    assert json.loads(files.pop("aiia-complete.json"))["repository"] == "org/model"
    assert files == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    fetched = list(hub.requests)
    assert cache.prepare() == []
    assert hub.requests == fetched


def test_a_killed_download_goes_on_where_it_was(hub: FakeHub, cache: Cache) -> None:
    hub.hold.clear()
    process = cache.start()
    assert hub.held.wait(30)
    assert process.stdout is not None
    # Until the first half of the weights has been written.
    assert any(json.loads(line)["progress"] > 0.3 for line in process.stdout)
    process.kill()
    process.communicate()
    assert cache.files == {}
    hub.hold.set()
    before = len(hub.requests)
    cache.prepare()
    assert cache.files["model.safetensors"] == WEIGHTS
    ranges = dict(hub.requests[before:])
    assert ranges["model.safetensors"] is not None
    assert int(ranges["model.safetensors"].removeprefix("bytes=").removesuffix("-")) > 1_000_000


def test_of_two_at_once_one_downloads(hub: FakeHub, cache: Cache) -> None:
    processes = [cache.start(), cache.start()]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    assert sorted(name for name, _ in hub.requests) == ["config.json", "model.safetensors"]


def test_files_that_are_not_what_the_hub_describes_are_not_taken(hub: FakeHub, cache: Cache) -> None:
    hub.repositories["org/model"].wrong_sums = True
    assert "did not arrive as the hub describes it" in cache.refusal()
    assert cache.files == {}
    hub.repositories["org/model"].wrong_sums = False
    cache.prepare()
    assert cache.files["model.safetensors"] == WEIGHTS


def test_a_full_disk_is_said_before(hub: FakeHub, cache: Cache) -> None:
    hub.repositories["org/model"].claims["model.safetensors"] = 10**16
    assert "10000000.0 GB more are needed on the volume of" in cache.refusal()
    assert hub.requests == []


def test_who_may_not_read_it_is_told_what_to_do(hub: FakeHub, cache: Cache) -> None:
    hub.repositories["org/model"].gated = True
    hub.repositories["org/model"].token = "right"
    assert f"org/model is gated: accept its conditions at {hub.url}/org/model and set HF_TOKEN" in cache.refusal()
    assert "with the account that HF_TOKEN belongs to" in cache.refusal(HF_TOKEN="other")
    assert "does not take the token in HF_TOKEN" in cache.refusal(HF_TOKEN="wrong")
    cache.prepare(HF_TOKEN="right")
    assert cache.files["model.safetensors"] == WEIGHTS


def test_there_is_no_such_model(cache: Cache) -> None:
    assert "there is no model org/other at" in cache.refusal("org/other")


def test_a_repository_without_weights(hub: FakeHub, cache: Cache) -> None:
    hub.repositories["org/model"].files = {"README.md": b"", "model.gguf": b""}
    assert "has no weights that an engine here loads" in cache.refusal()


def test_no_network(cache: Cache) -> None:
    refusal = cache.refusal(HF_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert "cannot be reached" in refusal
    assert "source.path" in refusal


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["model.safetensors", "pytorch_model.bin", "config.json"], ["config.json", "model.safetensors"]),
        (["pytorch_model.bin", "tf_model.h5", "onnx/model.json"], ["pytorch_model.bin"]),
        (
            ["consolidated.safetensors", "model-1.safetensors", "tokenizer.model"],
            ["model-1.safetensors", "tokenizer.model"],
        ),
        (["consolidated.safetensors", "params.json"], ["consolidated.safetensors", "params.json"]),
        (["1_Pooling/config.json", "modules.json", ".gitattributes"], ["1_Pooling/config.json", "modules.json"]),
        (["original/params.json", "metal/model.bin"], []),
        (
            [
                "model_index.json",
                "sd_xl_base_1.0.safetensors",
                "unet/config.json",
                "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
                "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
                "vae/diffusion_pytorch_model.fp16.safetensors",
                "safety_checker/model.safetensors",
                "tokenizer/merges.txt",
            ],
            [
                "model_index.json",
                "tokenizer/merges.txt",
                "unet/config.json",
                "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
                "vae/diffusion_pytorch_model.fp16.safetensors",
            ],
        ),
    ],
)
def test_one_form_of_the_weights(names: list[str], kept: list[str]) -> None:
    assert wanted(names) == kept
