"""Engine options per type of GPU: measured or known to be better than vLLM's own, from ``presets.yaml``."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

CPU = "cpu"


@cache
def _presets() -> tuple[tuple[str, dict[str, Any]], ...]:
    text = files("aiia_serving.engines").joinpath("presets.yaml").read_text()
    return tuple((entry["name"], entry["options"]) for entry in yaml.safe_load(text))


def options_for(accelerator: str) -> dict[str, Any]:
    """vLLM's arguments for a GPU such as ``L4`` or ``NVIDIA GeForce RTX 4090``, or for ``CPU``; empty if unknown."""
    wanted = _words(accelerator)
    return next((dict(options) for name, options in _presets() if _words(name) <= wanted), {})


def _words(name: str) -> set[str]:
    return set(name.lower().replace("-", " ").replace("_", " ").split())
