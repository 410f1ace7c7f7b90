"""The owner's folder of Model documents: the last one of ``AIIA_MODELS_DIR``. The others come with the program."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from aiia_serving.catalogue.document import ModelDocument


class NotOwned(Exception):
    """The document cannot be changed or removed here; the message says why."""


class OwnedDocuments:
    """Writes one document per file, and changes no file that holds several."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folder = folders[-1] if folders else None

    def put(self, document: ModelDocument, text: str) -> bool:
        """Keeps ``text``, which is ``document`` in YAML; returns whether it is the first of its name here."""
        if self._folder is None:
            raise NotOwned("There is no folder for documents; set AIIA_MODELS_DIR.")
        known = self._file(document.id)
        file = known or self._folder / f"{document.id}.yaml"
        self._folder.mkdir(parents=True, exist_ok=True)
        # Not *.yaml, so that nobody takes half of it for a document.
        partial = file.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(file)
        return known is None

    def remove(self, name: str) -> None:
        """Removes the document of this name. Raises ``NotOwned``."""
        file = self._file(name)
        if file is None:
            raise NotOwned(
                f"The document of {name} comes with aiia; unload the model instead, or replace its document."
            )
        file.unlink()

    def _file(self, name: str) -> Path | None:
        """The file that defines ``name``, also one that is refused under this name."""
        files = sorted(self._folder.glob("*.yaml")) if self._folder is not None and self._folder.is_dir() else []
        for file in files:
            names = _names(file)
            if name in names and len(names) > 1:
                raise NotOwned(f"{file} holds {name} together with other documents; edit it there.")
            if name in names or (not names and file.stem == name):
                return file
        return None


def _names(file: Path) -> list[str]:
    """The models that a file defines; none if there is a mistake in it."""
    try:
        parts = [part for part in yaml.safe_load_all(file.read_text()) if part is not None]
        return [ModelDocument.model_validate(part).id for part in parts]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError):
        return []
