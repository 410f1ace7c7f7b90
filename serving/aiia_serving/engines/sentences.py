"""Embedding and rerank models as Ray Serve applications: sentence-transformers behind a small HTTP application."""

from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.options import EmbeddingOptions, RerankOptions
from aiia_serving.engines import deployment, store

_LONGEST_ANSWER_S = 120


def application(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """See ``aiia_serving.engines.application``."""
    spec = document.spec
    options: EmbeddingOptions | RerankOptions = (
        spec.embedding or EmbeddingOptions() if spec.engine == "embedding" else spec.rerank or RerankOptions()
    )
    return deployment.application(
        document,
        "aiia_serving.engines.sentences:build",
        {"engine": spec.engine, "folder": str(store.folder(document, cache)), "options": options.model_dump()},
        threads=options.threads,
        longest_answer_s=_LONGEST_ANSWER_S,
    )


def build(args: dict[str, Any]) -> Any:
    """Serve's builder: runs in a task of the cluster."""
    from aiia_serving.engines.sentences_server import Server

    return deployment.build(Server, args, args["engine"], args["model"], args["folder"], args["options"])
