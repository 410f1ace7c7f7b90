"""Ready documents of models that people ask for: package data, and what becomes of an entry on a machine."""

from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import Field

from aiia_serving.catalogue.part import Name, Part, Repository

Precision = Literal["fp32", "bf16", "fp8", "int4", "mxfp4"]


class KvCache(Part):
    """What a token of context takes: ``layers`` that keep it all the way, key-value ``heads``, numbers of each."""

    layers: int
    heads: int
    head_dim: int

    @property
    def bytes_per_token(self) -> int:
        """In 16 bits, keys and values."""
        return 2 * 2 * self.layers * self.heads * self.head_dim


class Ready(Part):
    """A model with what has to be known to tell whether a machine can hold it. The best precision comes first."""

    id: Name
    title: str
    family: str
    task: Literal["chat", "embedding", "rerank"]
    license: str
    gated: bool = Field(default=False, description="The hub wants its conditions accepted, and a token")
    parameters: float
    embeddings: float = Field(default=0, description="Parameters that stay in 16 bits whatever the precision")
    context: int
    kv: KvCache | None = None
    precisions: dict[Precision, Repository]
    weight_bytes: dict[Precision, float] = Field(default={}, description="Where it does not follow from parameters")
    vllm: dict[str, Any] = {}

    def size(self, precision: Precision) -> int:
        """Bytes of the weights, on disk and in memory."""
        if precision in self.weight_bytes:
            return int(self.weight_bytes[precision])
        rest = self.parameters - self.embeddings
        return int(rest * _BYTES[precision] + self.embeddings * max(2.0, _BYTES[precision]))


# With the scales of groups or channels that quantized weights come with.
_BYTES: dict[Precision, float] = {"fp32": 4, "bf16": 2, "fp8": 1.02, "int4": 0.53, "mxfp4": 0.53}


@cache
def entries() -> dict[str, Ready]:
    """All of them by id: those of a family from small to large."""
    folder = files("aiia_serving.catalogue").joinpath("ready")
    documents = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    found = (Ready.model_validate(raw) for file in documents for raw in yaml.safe_load(file.read_text()))
    return {entry.id: entry for entry in found}
