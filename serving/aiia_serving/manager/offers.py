"""The ready documents, as this machine sees them."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.fit import document_for, fits
from aiia_serving.catalogue.machine import this_machine
from aiia_serving.catalogue.ready import entries

_OF_ENTRY = {"id", "title", "family", "task", "license", "parameters", "gated"}


def offers(cache: Path, added: Collection[str]) -> dict[str, Any]:
    """The machine, and every ready document with whether and how it fits: the answer of ``GET /catalogue``."""
    machine = this_machine(cache)
    models = []
    for entry, way in fits(machine):
        source = f"https://huggingface.co/{entry.precisions[way.precision]}"
        models.append(
            entry.model_dump(include=_OF_ENTRY) | asdict(way) | {"source": source, "added": entry.id in added}
        )
    return {"machine": machine.as_dict(), "models": models}


def offered(name: str, cache: Path, overrides: Mapping[str, Any]) -> ModelDocument:
    """The ready document for this machine, with ``overrides`` laid over it, part by part.

    Raises ``LookupError`` for a name that is not on offer, and pydantic's ``ValidationError``.
    """
    entry = entries().get(name)
    if entry is None:
        raise LookupError(f"There is no ready document {name}.")
    document = _laid_over(document_for(entry, this_machine(cache)), overrides)
    # The name is what it is asked for by.
    return ModelDocument.model_validate(document | {"metadata": {**document["metadata"], "name": name}})


def _laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        merged[name] = _laid_over(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
    return merged
