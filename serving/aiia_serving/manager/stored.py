"""Small dicts of the manager that outlive it, each in one JSON file."""

import json
from pathlib import Path
from typing import Any


def read_stored(path: Path) -> dict[str, Any]:
    """The content of ``path``; empty when there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_stored(path: Path, content: dict[str, Any]) -> None:
    """Replaces ``path`` as a whole, so that it is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2))
    partial.replace(path)
