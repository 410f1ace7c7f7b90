"""What `aiia models` prints."""

from typing import Any

import pytest

from aiia_cli import models_view as view
from aiia_cli.amounts import count, size, span
from tests.fakes.manager import HELD

pytestmark = pytest.mark.unit


def model(**fields: object) -> dict[str, Any]:
    return {
        "id": "qwen3-8b",
        "engine": "vllm",
        "state": "ready",
        "reason": "",
        "progress": None,
        "eta_s": None,
        "base": None,
        "replicas": 1,
        "min_replicas": 0,
        "max_replicas": 2,
        "queue": None,
    } | fields


def test_each_model_is_a_line() -> None:
    queue = {"running": 32, "slots": 32, "waiting": 14, "work_s": 40.0}
    found = [
        model(queue=queue),
        model(id="gemma", state="downloading", progress=0.62, eta_s=240.0, reason="Fetching.", replicas=0),
        model(id="remote", engine="openai"),
        model(id="pirate", base="qwen3-8b"),
        model(id="sdxl", base="flux", held=[{**HELD, "place": "main"}]),
    ]
    assert list(view.models(found)) == [
        "MODEL     STATE        REPLICAS  QUEUE",
        "qwen3-8b  ready        1 (0-2)   32 of 32 run, 14 wait (about 40 s)",
        "gemma     downloading  0 (0-2)   -                                   Fetching, 62 %, about 4 min left",
        "remote    ready        -         -",
        "pirate    ready        -         -                                   on the replicas of qwen3-8b",
        "sdxl      ready        -         -                                   on the replicas of flux, 5.1 GB in main"
        f" memory as bfloat16, weights in fp8, encoders offloaded ({HELD['why']})",
    ]


def test_no_models_say_how_to_get_one() -> None:
    assert "aiia models fit" in "".join(view.models([]))


def test_the_catalogue_begins_with_what_fits() -> None:
    entry = {
        "id": "qwen3-8b",
        "task": "chat",
        "fits": True,
        "reason": None,
        "precision": "bfloat16",
        "memory_bytes": 18e9,
        "download_bytes": 16.4e9,
        "max_model_len": 32768,
        "added": True,
        "gated": False,
    }
    large = entry | {"id": "llama-70b", "fits": False, "reason": "Needs 140 GB.", "added": False, "gated": True}
    machine = {"gpus": [{"name": "NVIDIA L4", "memory_bytes": 24e9}], "memory_bytes": 64e9, "disk_free_bytes": 1e12}
    machine["cpu_count"] = 8
    lines = list(view.catalogue({"machine": machine, "models": [large, entry]}))
    assert lines[0] == "This machine: NVIDIA L4 (24.0 GB), 8 processors, 64.0 GB of memory, 1.0 TB of disk free."
    assert lines[3].split() == ["qwen3-8b", "yes", "chat", "18.0", "GB", "16.4", "GB", "32,768", "added;", "bfloat16"]
    assert lines[4].endswith("32,768   Needs 140 GB")
    small = entry | {"gated": True, "added": False}
    assert "gated: accept its licence" in list(view.catalogue({"machine": machine, "models": [small]}))[3]


def test_an_event_is_a_line() -> None:
    event = {
        "n": 1,
        "at": 0.0,
        "model": "qwen3-8b",
        "state": "failed",
        "previous": "starting",
        "reason": "Out of memory",
    }
    assert view.event(event).endswith("  qwen3-8b  failed (was starting): Out of memory")
    assert view.event(event | {"state": None, "previous": None, "reason": None}).endswith("  qwen3-8b  gone")


@pytest.mark.parametrize(("number", "words"), [(999, "1 kB"), (1.2e9, "1.2 GB"), (3e6, "3.0 MB"), (None, "-")])
def test_sizes(number: float | None, words: str) -> None:
    assert size(number) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (40, "40 s"), (240, "4 min"), (7200, "2 h")])
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_counts() -> None:
    assert (count(1, "request"), count(1400, "request")) == ("1 request", "1,400 requests")
