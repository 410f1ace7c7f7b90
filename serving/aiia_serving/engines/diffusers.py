"""Image models as Ray Serve applications: diffusers behind the engine of ``aiia_serving.images``."""

from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.engines import store

_LONGEST_ANSWER_S = 3600


def application(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """See ``aiia_serving.engines.application``."""
    spec = document.spec
    options = spec.diffusers or DiffusersOptions()
    actor: dict[str, Any] = {
        "num_gpus": spec.resources.gpus,
        "runtime_env": {
            "env_vars": {
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": str(options.threads),
                "TOKENIZERS_PARALLELISM": "false",
                # Freed pieces of different sizes are joined again, as images of several sizes need.
                "PYTORCH_ALLOC_CONF": "expandable_segments:True",
            }
        },
    }
    if spec.resources.gpus and spec.resources.accelerator_type and " " not in spec.resources.accelerator_type:
        actor["accelerator_type"] = spec.resources.accelerator_type
    return {
        "name": document.id,
        "route_prefix": f"/{document.id}",
        "import_path": "aiia_serving.engines.diffusers:build",
        "args": {
            "model": document.id,
            "source": str(store.folder(document, cache)),
            "options": options.model_dump() | places(options, cache),
            "deployment": {
                "num_replicas": max(1, spec.scaling.min_replicas),
                "max_ongoing_requests": 1_000_000,
                "health_check_period_s": 1,
                "health_check_timeout_s": 30,
                "graceful_shutdown_timeout_s": _LONGEST_ANSWER_S,
                "ray_actor_options": actor,
            },
        },
    }


def build(args: dict[str, Any]) -> Any:
    """Serve's builder: runs in a task of the cluster."""
    from ray import serve

    from aiia_serving.engines.diffusers_server import Server

    deployment = serve.deployment(
        serve.ingress()(Server), name=f"{Server.__name__}:{args['model']}", **args["deployment"]
    )
    return deployment.bind(args["model"], args["source"], args["options"])


def places(options: DiffusersOptions, cache: Path) -> dict[str, Any]:
    """Where the files of the parts lie, in the place of where they come from."""
    found: dict[str, Any] = {
        kind: {part.name: str(store.adapter_folder(part.source, cache)) for part in getattr(options, kind)}
        for kind in ("loras", "controls", "upscalers")
    }
    for name in ("config", "vae"):
        source = getattr(options, name)
        found[name] = str(store.adapter_folder(source, cache)) if source is not None else None
    return found
