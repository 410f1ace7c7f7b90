"""What is added to a model by its document, and loaded when it is first wanted."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from aiia_serving.images.problem import ImageProblem

Loaded = TypeVar("Loaded")


class Parts(Generic[Loaded]):
    """Parts of one kind, by their name in the Model document."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)
        self._loaded: dict[str, Loaded] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return sorted(self._files)

    @property
    def loaded(self) -> list[Any]:
        """The modules of those that were loaded."""
        return list(self._loaded.values())

    def _once(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load()
            return self._loaded[name]


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a part. Raises ImageProblem for a folder without one."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.safetensors"))
    if not found:
        raise ImageProblem(f"{path.name} holds no safetensors file.", code="bad_weights", status=422)
    return found
