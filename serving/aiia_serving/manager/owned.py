"""The owner's folder of Model documents: the last one of ``AIIA_MODELS_DIR``. The others come with the program."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import yaml

from aiia_serving.catalogue.document import ModelDocument


class NotOwned(Exception):
    """The document cannot be changed or removed here; the message says why."""


class OwnedDocuments:
    """Writes one document per file, and touches no file that holds anything else."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folder = folders[-1] if folders else None

    def put(self, document: ModelDocument, text: str) -> bool:
        """Keeps ``text``, which is ``document`` in YAML; returns whether it is the first of its name here.

        Raises ``NotOwned``.
        """
        if self._folder is None:
            raise NotOwned("There is no folder for documents; set AIIA_MODELS_DIR.")
        known = self._file(document.id)
        file = known or _free(self._folder, document.id)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Not *.yaml, so that nobody takes half of it for a document.
        partial = file.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(file)
        return known is None

    def remove(self, name: str) -> None:
        """Removes the document of this name. Raises ``NotOwned``."""
        file = self._file(name)
        if file is None and self._folder is not None and (other := self._folder / f"{name}.yaml").exists():
            raise NotOwned(f"{other} holds something else than {name}; edit it there.")
        if file is None:
            raise NotOwned(
                f"The document of {name} comes with aiia; unload the model instead, or replace its document."
            )
        file.unlink()

    def _file(self, name: str) -> Path | None:
        """The file that holds this one document and no other, also if it is refused. Raises ``NotOwned``."""
        files = sorted(self._folder.glob("*.yaml")) if self._folder is not None and self._folder.is_dir() else []
        # The last document of a name is the one that counts.
        for file in reversed(files):
            names = _names(file)
            if names is None and file.stem == name:
                raise NotOwned(f"{file} cannot be read, so it may hold more than {name}; edit it there.")
            if names is None:
                continue
            if name in names and len(names) > 1:
                raise NotOwned(f"{file} holds {name} together with other documents; edit it there.")
            # A document without a name is told under that of its file.
            if names == [name] or (names == [None] and file.stem == name):
                return file
        return None


def _names(file: Path) -> list[str | None] | None:
    """The name of each document in a file, whether it is right or not; None if the file cannot be read."""
    try:
        parts = [part for part in yaml.safe_load_all(file.read_text()) if part is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return [_name(part) for part in parts]


def _name(part: object) -> str | None:
    metadata = part.get("metadata") if isinstance(part, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None


def _free(folder: Path, name: str) -> Path:
    """A file of the folder that is not there yet."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(file for file in (folder / f"{name}.yaml" for name in names) if not file.exists())
