"""What a take-over adopts from the live stream of the attempt before."""

from types import SimpleNamespace
from typing import Any

import pytest

from aiia_platform.generations.runner import adopt

pytestmark = pytest.mark.unit


def row(text: str, ids: list[int], attempt: int = 1) -> Any:
    message = SimpleNamespace(text=text, reasoning="")
    return SimpleNamespace(message=message, attempt=attempt, output_ids=ids, prompt_ids=[], finish_reason="")


def delta(at: int, text: str, ids_at: int, ids: list[int], attempt: int = 1, finish: str = "") -> dict[str, Any]:
    return {
        "type": "delta",
        "attempt": attempt,
        "channel": "text",
        "at": at,
        "text": text,
        "ids_at": ids_at,
        "ids": ids,
        "prompt_ids": [7] if ids_at == 0 else [],
        "finish_reason": finish,
    }


def test_adds_what_was_not_stored() -> None:
    generation = row("one two", [1, 2])
    adopt(
        [delta(0, "one", 0, [1]), delta(3, " two three", 1, [2, 3]), delta(13, " four", 3, [4], finish="stop")],
        generation,
    )
    assert generation.message.text == "one two three four"
    assert generation.output_ids == [1, 2, 3, 4]
    assert generation.prompt_ids == [7]
    assert generation.finish_reason == "stop"


def test_leaves_out_what_follows_a_gap() -> None:
    generation = row("one", [1])
    adopt([delta(7, " three", 2, [3])], generation)
    assert generation.message.text == "one"
    assert generation.output_ids == [1]


def test_leaves_out_other_attempts() -> None:
    generation = row("one", [1], attempt=2)
    adopt([delta(3, " zombie", 1, [9], attempt=1)], generation)
    assert generation.message.text == "one"
