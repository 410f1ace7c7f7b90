"""Reads folders of Model documents. A bad document is named and left out; the others count."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from aiia_serving.catalogue.document import ModelDocument

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """A document that is not taken: the file, and the field with what is wrong in it."""

    file: Path
    problem: str

    @property
    def name(self) -> str:
        return self.file.stem

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


@dataclass(frozen=True)
class Catalogue:
    """The wanted models by name, the file of each, and what was refused.

    ``outdated`` has the models whose file has a mistake since it was last read: their documents are those from before.
    """

    documents: dict[str, ModelDocument]
    refusals: tuple[Refusal, ...]
    places: dict[str, Path] = field(default_factory=dict)
    outdated: dict[str, Refusal] = field(default_factory=dict)


def catalogue_folders() -> list[Path]:
    """The folders of ``AIIA_MODELS_DIR``, in order."""
    return [Path(part) for part in os.environ.get("AIIA_MODELS_DIR", "").split(os.pathsep) if part]


def load_catalogue(folders: Sequence[Path], before: Catalogue | None = None) -> Catalogue:
    """All documents of the folders (``*.yaml``, several per file allowed); a later folder's replace an earlier's.

    A document that was right ``before`` counts on while there is a mistake in its file.
    """
    documents: dict[str, ModelDocument] = {}
    places: dict[str, Path] = {}
    refusals: list[Refusal] = []
    for file in _files(folders):
        try:
            parts = [part for part in yaml.safe_load_all(file.read_text()) if part is not None]
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            refusals.append(Refusal(file, f"not readable as YAML: {error}"))
            continue
        for part in parts:
            try:
                document = ModelDocument.model_validate(_with_places(part, file.parent))
            except ValidationError as error:
                refusals.append(Refusal(file, describe(error)))
            else:
                documents[document.id], places[document.id] = document, file
    for name, problem in _names_in_the_way(documents):
        refusals.append(Refusal(places[name], problem))
        del documents[name], places[name]
    before = before or Catalogue({}, ())
    outdated: dict[str, Refusal] = {}
    for refusal in refusals:
        for name, place in before.places.items():
            if place == refusal.file != places.get(name):
                documents[name], places[name], outdated[name] = before.documents[name], place, refusal
    return Catalogue(documents, tuple(refusals), places, outdated)


def _with_places(part: Any, folder: Path) -> Any:
    """The document with each ``path`` that begins with ``./`` taken from ``folder``."""
    if isinstance(part, list):
        return [_with_places(item, folder) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        name: str(folder.absolute() / value)
        if name == "path" and isinstance(value, str) and value.startswith("./")
        else _with_places(value, folder)
        for name, value in part.items()
    }


def _names_in_the_way(documents: dict[str, ModelDocument]) -> list[tuple[str, str]]:
    """The documents with a further model whose name is taken, and what to say of each."""
    found, taken = [], set(documents)
    for name, document in documents.items():
        names = [model.name for model in document.beside]
        field = "spec.diffusers.models" if document.spec.diffusers else "spec.vllm.loras"
        for place, further in enumerate(names):
            if further in taken or further in names[:place]:
                found.append((name, f"{field}.{place}.name: {further} is the name of another model"))
                break
        else:
            taken.update(names)
    return found


def fingerprint(folders: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever a document file does: name, time of change and size of each."""
    marks = []
    for file in _files(folders):
        try:
            status = file.stat()
        except OSError:
            continue
        marks.append((str(file), status.st_mtime_ns, status.st_size))
    return tuple(marks)


def describe(error: ValidationError) -> str:
    """What is wrong, by field: ``spec.scaling.minReplicas: Input should be greater than or equal to 0``."""
    problems = []
    for item in error.errors(include_url=False, include_input=False):
        field = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        problems.append(f"{field}: {message}" if field else message)
    return "; ".join(problems)


def _files(folders: Sequence[Path]) -> list[Path]:
    return [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.yaml"))]
