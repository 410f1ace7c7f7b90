"""Embedding and rerank models as Ray Serve applications: sentence-transformers behind a small HTTP application."""

from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.options import EmbeddingOptions, RerankOptions
from aiia_serving.engines import store

_LONGEST_ANSWER_S = 120


def application(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """See ``aiia_serving.engines.application``."""
    spec = document.spec
    options: EmbeddingOptions | RerankOptions = (
        spec.embedding or EmbeddingOptions() if spec.engine == "embedding" else spec.rerank or RerankOptions()
    )
    actor: dict[str, Any] = {
        "num_gpus": spec.resources.gpus,
        "runtime_env": {
            "env_vars": {
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": str(options.threads),
                "TOKENIZERS_PARALLELISM": "false",
            }
        },
    }
    if spec.resources.gpus and spec.resources.accelerator_type and " " not in spec.resources.accelerator_type:
        actor["accelerator_type"] = spec.resources.accelerator_type
    return {
        "name": document.id,
        "route_prefix": f"/{document.id}",
        "import_path": "aiia_serving.engines.sentences:build",
        "args": {
            "engine": spec.engine,
            "model": document.id,
            "folder": str(store.folder(document, cache)),
            "options": options.model_dump(),
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

    from aiia_serving.engines.sentences_server import Server

    deployment = serve.deployment(
        serve.ingress()(Server), name=f"{Server.__name__}:{args['model']}", **args["deployment"]
    )
    return deployment.bind(args["engine"], args["model"], args["folder"], args["options"])
