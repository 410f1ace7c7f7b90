"""Sampling parameters in OpenAI's names, and how the context is kept within a model's length."""

import math
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError

#: Lowest and highest value of each number.
NUMBERS = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (-1, 1000),
    "max_tokens": (1, 1_000_000),
    "seed": (-(2**31), 2**31 - 1),
}
WHOLE = {"top_k", "max_tokens", "seed"}
STOPS = 4
STOP_LENGTH = 200

#: How a conversation that is longer than the model is kept within it.
STRATEGIES = {
    "auto": "The newest messages that fit",
    "last": "The last messages, by number",
    "budget": "The last messages, by tokens",
    "summary": "A summary of the older messages",
}


def clean_params(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters without those that are empty. Raises `ValidationError` by name for one that cannot be."""
    found: dict[str, Any] = {}
    mistakes: dict[str, str] = {}
    for name, value in given.items():
        if value in (None, "", []):
            continue
        try:
            found[name] = _stops(value) if name == "stop" else _number(name, value)
        except (TypeError, ValueError, OverflowError, KeyError):
            mistakes[name] = _advice(name)
    if mistakes:
        raise ValidationError(mistakes)
    return found


def clean_context(given: Mapping[str, Any]) -> dict[str, Any]:
    """`{"strategy", "messages" or "tokens"}`. Raises `ValidationError` by name."""
    strategy = given.get("strategy") or "auto"
    if strategy not in STRATEGIES:
        raise ValidationError({"strategy": f"One of {', '.join(STRATEGIES)}."})
    unit = {"last": "messages", "budget": "tokens"}.get(strategy)
    if unit is None:
        return {"strategy": strategy} if strategy != "auto" else {}
    value = given.get(unit)
    if isinstance(value, bool) or not str(value).isdecimal() or not 1 <= int(str(value)) <= 10_000_000:
        raise ValidationError({unit: f"A whole number of {unit}, from 1."})
    return {"strategy": strategy, unit: int(str(value))}


def samples(params: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """The parameters of several samples of one prompt: each is bolder than the one before, and none repeats another."""
    base = float(params.get("temperature", 0.7))
    spread = [{**params, "temperature": round(min(2.0, base + 0.15 * i), 2)} for i in range(count)]
    if "seed" in params:
        return [{**each, "seed": each["seed"] + i} for i, each in enumerate(spread)]
    return spread if count > 1 else [dict(params)]


def _number(name: str, value: Any) -> float | int:
    low, high = NUMBERS[name]
    if isinstance(value, bool):
        raise ValueError(name)
    number = float(value)
    if not math.isfinite(number) or not low <= number <= high or (name in WHOLE and number != int(number)):
        raise ValueError(name)
    return int(number) if name in WHOLE else number


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else list(value)
    if not 0 < len(stops) <= STOPS or not all(isinstance(s, str) and 0 < len(s) <= STOP_LENGTH for s in stops):
        raise ValueError("stop")
    return [stop.replace("\0", "") for stop in stops]


def _advice(name: str) -> str:
    if name == "stop":
        return f"Up to {STOPS} texts of {STOP_LENGTH} characters."
    if name not in NUMBERS:
        return "There is no such parameter."
    low, high = NUMBERS[name]
    return f"A {'whole ' if name in WHOLE else ''}number from {low:g} to {high:g}."
