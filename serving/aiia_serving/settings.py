"""Configuration from environment variables, shared by the roles of this package."""

import os
from pathlib import Path


def read_secret(name: str) -> str | None:
    """The variable ``name``, or the stripped content of the file named by ``<name>_FILE``; None without both."""
    if value := os.environ.get(name):
        return value
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text().strip()
    return None
