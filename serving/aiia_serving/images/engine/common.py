"""What the models of a replica have in common: parts whose files hold the same, which are in memory once."""

import filecmp
import json
from collections.abc import Hashable
from pathlib import Path

from aiia_serving.images.parts import Shelf
from aiia_serving.images.weights import files

# What configurations say of their origin.
_ORIGIN = ("_name_or_path", "_diffusers_version", "transformers_version", "torch_dtype", "dtype")


class Common:
    """Of one replica."""

    def __init__(self) -> None:
        self._alike: dict[Hashable, list[Path]] = {}
        self._shelves: dict[str, Shelf] = {}

    def shelf(self, how: str) -> Shelf:
        """That of the models which are loaded and placed in this way."""
        return self._shelves.setdefault(how, Shelf(how))

    def first(self, path: Path) -> Path:
        """The first that was asked for of the files, or folders of one part, that hold the same as this one.

        Weights are read only where sizes and configuration are the same.
        """
        found = files(path)
        try:
            alike = self._alike.setdefault((_configuration(path), *(file.stat().st_size for file in found)), [])
            for other in alike if found else ():
                if all(_same(*pair) for pair in zip(found, files(other), strict=True)):
                    return other
        except (OSError, ValueError):
            # What is wrong with it is said when it is loaded.
            return path
        alike.append(path)
        return path


def _same(one: Path, other: Path) -> bool:
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def _configuration(path: Path) -> str:
    """All that a folder says beside its weights; nothing for a file."""
    said = {file.name: json.loads(file.read_text()) for file in path.glob("*.json")} if path.is_dir() else {}
    for one in said.values():
        for name in _ORIGIN if isinstance(one, dict) else ():
            one.pop(name, None)
    return json.dumps(said, sort_keys=True)
