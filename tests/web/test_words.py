"""The words of the interface, as docs and designers know them."""

import pytest

from aiia_platform.gateway import ModelInfo
from aiia_platform.generations.models import Generation
from aiia_web import words

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ({"phase": "queued", "position": 3, "eta_s": 12}, "Queued: 3rd, about 12 s"),
        ({"phase": "queued", "position": 1}, "Queued: 1st"),
        ({"phase": "queued"}, "Queued"),
        ({"phase": "starting", "state": "starting", "eta_s": 40}, "Starting qwen3-8b, about 40 s"),
        ({"phase": "starting", "state": "cold"}, "Starting qwen3-8b"),
        (
            {"phase": "starting", "state": "downloading", "progress": 0.62, "eta_s": 240},
            "Downloading 62 %, 4 min left",
        ),
        ({"phase": "starting", "state": "downloading"}, "Downloading"),
        ({"phase": "thinking", "seconds": 14}, "Thinking, 14 s"),
        ({"phase": "writing", "tokens_per_s": 42.3}, "Writing, 42 tok/s"),
        ({"phase": "interrupted", "reason": "The worker stopped."}, "The worker stopped. Continuing"),
        ({}, "Working"),
    ],
)
def test_a_running_answer_says_its_phase(detail: dict[str, object], expected: str) -> None:
    assert words.status(detail, "qwen3-8b") == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": "done", "completion_tokens": 214}, "qwen3-8b · 214 tokens"),
        ({"state": "done", "completion_tokens": 1}, "qwen3-8b · 1 token"),
        ({"state": "stopped"}, "Stopped by you"),
        (
            {"state": "failed", "error": "Out of memory at 1536 px.", "advice": "Try 1024 px"},
            "Out of memory at 1536 px. Try 1024 px",
        ),
        ({"state": "failed"}, "The answer failed"),
    ],
)
def test_an_ended_answer_says_how(fields: dict[str, object], expected: str) -> None:
    assert words.outcome(Generation(model="qwen3-8b", **fields)) == expected


@pytest.mark.parametrize(
    ("state", "more", "expected"),
    [
        ("ready", {}, "Ready"),
        ("starting", {"eta_s": 40.0}, "Starting Qwen, about 40 s"),
        ("downloading", {"progress": 0.62, "eta_s": 240.0}, "Downloading 62 %, 4 min left"),
        ("registered", {}, "Waiting to start"),
        ("cold", {}, "Asleep, starts with the first message"),
        ("cold", {"starts_on_demand": False}, "Unloaded"),
        ("draining", {}, "Stopping"),
        ("failed", {"reason": "Out of memory."}, "Failed: Out of memory"),
    ],
)
def test_a_model_says_its_state(state: str, more: dict[str, object], expected: str) -> None:
    fields: dict[str, object] = {"id": "q", "title": "Qwen", "task": "chat", "state": state, "reason": ""}
    fields |= {"progress": None, "eta_s": None, "max_model_len": None, "exact_continuation": False} | more
    assert words.model_state(ModelInfo(**fields)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "expected"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd"), (113, "113th")]
)
def test_ordinals(number: int, expected: str) -> None:
    assert words.ordinal(number) == expected
