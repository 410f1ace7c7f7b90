"""What makes a folder of model files trustworthy: it is complete or not there, whoever is killed when."""

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

_MARKER = "aiia-complete.json"
# A volume that is full to the last byte is trouble for everyone on it.
_RESERVE_BYTES = 500 * 1000 * 1000


class Progress(Protocol):
    """Gets a fraction from 0 to 1, what is being done, and the seconds that are left if they are known."""

    def __call__(self, fraction: float, reason: str, eta_s: float | None = None, /) -> None: ...


def is_complete(folder: Path) -> bool:
    return (folder / _MARKER).is_file()


def complete(partial: Path, folder: Path, facts: dict[str, Any]) -> None:
    """Turns a finished ``partial`` folder into ``folder``; ``facts`` say where the files are from."""
    (partial / _MARKER).write_text(json.dumps(facts))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def require_space(folder: Path, needed: int) -> None:
    """Raises ``OSError``, in words, unless ``needed`` more bytes and a reserve fit on the volume of ``folder``."""
    left = shutil.disk_usage(folder).free
    if needed + _RESERVE_BYTES > left:
        raise OSError(
            f"{gigabytes(needed)} more are needed on the volume of {folder}, where {gigabytes(left)} are free; "
            "make room there, or set AIIA_MODEL_CACHE to a folder on a larger volume"
        )


def gigabytes(size: float) -> str:
    """``16.4 GB``, in units of 10^9 bytes, as disks and GPUs are sold."""
    return f"{size / 1e9:.1f} GB"
