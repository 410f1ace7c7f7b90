"""Image models as Ray Serve applications: diffusers behind the engine of ``aiia_serving.images``."""

from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.options import DiffusersOptions, PipelineOptions
from aiia_serving.engines import deployment, store

_LONGEST_ANSWER_S = 3600
_ENVIRONMENT = {
    # Freed pieces of different sizes are joined again, as images of several sizes need.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # On a processor, each image would ask the system for its larger tensors' memory and give it back.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024 * 1024),
}


def application(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """See ``aiia_serving.engines.application``."""
    options = document.spec.diffusers or DiffusersOptions()
    pipelines = {document.id: _pipeline(store.folder(document, cache), options, cache)}
    pipelines |= {
        model.name: _pipeline(store.adapter_folder(model.source, cache), model, cache) for model in options.models
    }
    return deployment.application(
        document,
        "aiia_serving.engines.diffusers:build",
        {"pipelines": pipelines, "options": options.model_dump(include={"batch_size", "memory_gb", "threads"})},
        threads=options.threads,
        longest_answer_s=_LONGEST_ANSWER_S,
        environment=_ENVIRONMENT,
    )


def build(args: dict[str, Any]) -> Any:
    """Serve's builder: runs in a task of the cluster."""
    from aiia_serving.engines.diffusers_server import Server

    return deployment.build(Server, args, args["model"], args["pipelines"], args["options"])


def places(options: PipelineOptions, cache: Path) -> dict[str, Any]:
    """Where the files of the parts lie, in the place of where they come from."""
    found: dict[str, Any] = {
        kind: {part.name: str(store.adapter_folder(part.source, cache)) for part in getattr(options, kind)}
        for kind in ("loras", "controls", "upscalers", "depths")
    }
    for name in ("config", "vae"):
        source = getattr(options, name)
        found[name] = str(store.adapter_folder(source, cache)) if source is not None else None
    return found


def _pipeline(source: Path, options: PipelineOptions, cache: Path) -> dict[str, Any]:
    own = options.model_dump(include=set(PipelineOptions.model_fields))
    return {**own, **places(options, cache), "source": str(source)}
