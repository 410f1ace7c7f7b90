"""How long things took the last time, kept on disk: what estimates are made from."""

import json
from pathlib import Path


class Timings:
    """Seconds by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._seconds: dict[str, float] = {name: float(took) for name, took in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            self._seconds = {}

    def get(self, name: str) -> float | None:
        return self._seconds.get(name)

    def record(self, name: str, seconds: float) -> None:
        self._seconds[name] = round(seconds, 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._seconds, indent=2))
        partial.replace(self._path)
