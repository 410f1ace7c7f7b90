"""Parts of models by where their files lie: each is loaded once, for all models that have it."""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

Loaded = TypeVar("Loaded")

# How it is loaded and placed, the class that loads it, and where its files lie.
Key = tuple[str, str, Path]


@dataclass(frozen=True)
class _Entry:
    part: Any
    module: Any


class Shelf:
    """Parts that models may have in common, loaded and placed in one way: ``how``. For any number of threads."""

    def __init__(self, how: str = "") -> None:
        self._how = how
        self._found: dict[Key, _Entry] = {}
        self._lock = threading.RLock()

    def key(self, kind: str, path: Path) -> Key:
        return self._how, kind, path

    def once(self, key: Key, load: Callable[[], Loaded], module: Callable[[Loaded], Any]) -> Loaded:
        """The part, which is loaded if it is not there. ``module`` tells what holds its weights."""
        with self._lock:
            if key not in self._found:
                part = load()
                self._found[key] = _Entry(part, module(part))
            found: Loaded = self._found[key].part
            return found

    def put(self, key: Key, module: Any) -> None:
        """A module is there from now on."""
        with self._lock:
            self._found[key] = _Entry(module, module)

    def has(self, key: Key) -> bool:
        return key in self._found

    def modules(self, keys: Iterable[Key]) -> list[Any]:
        """The modules of those that are there."""
        found = [self._found.get(key) for key in keys]
        return [entry.module for entry in found if entry is not None]

    def forget(self, keys: Collection[Key]) -> None:
        """They are not there any more."""
        with self._lock:
            self._found = {key: entry for key, entry in self._found.items() if key not in keys}


class Parts(Generic[Loaded]):
    """Parts of one kind, by their name in the Model document."""

    def __init__(self, files: Mapping[str, Path], kind: str, shelf: Shelf | None) -> None:
        self._files = dict(files)
        self._kind = kind
        self._shelf = shelf or Shelf()

    @property
    def names(self) -> list[str]:
        return sorted(self._files)

    @property
    def keys(self) -> list[Key]:
        """What each is on the shelf, loaded or not."""
        return list(map(self._key, self._files))

    @property
    def modules(self) -> list[Any]:
        """The modules of those that were loaded."""
        return self._shelf.modules(self.keys)

    def _module(self, part: Loaded) -> Any:
        return part

    def _is_loaded(self, name: str) -> bool:
        return name in self._files and self._shelf.has(self._key(name))

    def _once(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        return self._shelf.once(self._key(name), load, self._module)

    def _key(self, name: str) -> Key:
        return self._shelf.key(self._kind, self._files[name])
