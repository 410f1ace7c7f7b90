"""Configuration from environment variables, shared by the roles of this package."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def model_cache() -> Path:
    """Where prepared model files are kept, shared by all data directories of a user."""
    return Path(os.environ.get("AIIA_MODEL_CACHE") or user_cache_path("aiia") / "models")


def read_secret(name: str) -> str | None:
    """The variable ``name``, or the stripped content of the file named by ``<name>_FILE``; None without both."""
    if value := os.environ.get(name):
        return value
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text().strip()
    return None
