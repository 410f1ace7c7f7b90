"""Where models run: the local Ray head, and how each engine's model becomes a Ray Serve application."""

from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines import diffusers, sentences, vllm


def application(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """The entry of a local model in Serve's declarative configuration (``ServeApplicationSchema``).

    It has ``minReplicas`` replicas, but one at least. Raises ``LookupError`` for a package that is not known.
    """
    make = {"vllm": vllm.application, "diffusers": diffusers.application}.get(
        document.spec.engine, sentences.application
    )
    return make(document, cache)
