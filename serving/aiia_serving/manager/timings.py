"""How long things took the last time, kept on disk: what estimates are made from."""

from pathlib import Path

from aiia_serving.manager.stored import read_stored, write_stored


class Timings:
    """Seconds by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds = {name: took for name, took in read_stored(path).items() if isinstance(took, int | float)}

    def get(self, name: str) -> float | None:
        return self._seconds.get(name)

    def record(self, name: str, seconds: float) -> None:
        self._seconds[name] = round(seconds, 1)
        write_stored(self._path, self._seconds)
