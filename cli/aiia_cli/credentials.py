"""Secrets that an instance makes for itself, once, and keeps in its data directory."""

import os
import secrets
from pathlib import Path


def secret(folder: Path, name: str) -> Path:
    """The file (mode 0600) that holds the named secret, 64 hexadecimal digits; made on first use."""
    path = folder / name
    if not path.exists():
        # Written beside and moved, so that a crash never leaves half a secret.
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    return path
