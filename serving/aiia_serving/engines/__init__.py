"""Where models run: the local Ray head, and how each engine's model becomes a Ray Serve application."""

from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines import sentences, vllm


def application(document: ModelDocument, cache: Path, autoscaling: dict[str, Any] | None = None) -> dict[str, Any]:
    """The entry of a local model in Serve's declarative configuration (``ServeApplicationSchema``).

    ``autoscaling`` is Serve's ``autoscaling_config``; without it there are the document's ``minReplicas``, but one at
    least. The model's deployment is called ``<class>:<name of the model>``. Raises ``LookupError`` for a package that
    is not known.
    """
    replicas: dict[str, Any] = (
        {"autoscaling_config": autoscaling}
        if autoscaling is not None
        else {"num_replicas": max(1, document.spec.scaling.min_replicas)}
    )
    make = vllm.application if document.spec.engine == "vllm" else sentences.application
    return make(document, cache, replicas)
