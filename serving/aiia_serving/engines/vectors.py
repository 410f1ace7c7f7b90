"""Embeddings: texts into vectors, in OpenAI's shape."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from aiia_serving.engines.http import BadRequest

Vector = NDArray[np.float32]
TokenIds = list[int]

# Tokens, padding included, of what is computed at once: bounds the memory that long texts take.
_TOKENS_AT_ONCE = 16_384
_MOST_INPUTS = 2048

_Any = TypeVar("_Any")
_Some = Annotated[list[_Any], Field(min_length=1)]


class EmbeddingRequest(BaseModel):
    """OpenAI's body; ``truncate`` cuts inputs that are too long instead of refusing them."""

    model: str | None = None
    input: str | _Some[str] | _Some[int] | _Some[TokenIds]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)
    truncate: bool = False
    user: str | None = None


class Vectors:
    """A sentence-transformers model. ``max_length`` in tokens, by default the model's own."""

    def __init__(self, folder: str, max_length: int | None, matryoshka: bool | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(folder, local_files_only=True)
        self._model.eval()
        tokenizer: Any = self._model.tokenizer
        self._tokenizer = tokenizer
        self.max_length = max_length or self._model.max_seq_length or int(tokenizer.model_max_length)
        self.vocabulary = len(tokenizer)
        config = json.loads((Path(folder) / "config.json").read_text())
        self.matryoshka = bool(matryoshka if matryoshka is not None else _says_matryoshka(config))

    def tokenize(self, texts: list[str], truncate: bool = False) -> list[TokenIds]:
        """Token ids of each text, with the special ones that the model wants."""
        limit = {"truncation": True, "max_length": self.max_length} if truncate else {"truncation": False}
        ids: list[TokenIds] = self._tokenizer(texts, padding=False, verbose=False, **limit)["input_ids"]
        return ids

    def encode(self, inputs: Sequence[TokenIds]) -> list[Vector]:
        """One vector for each input, in their order."""
        import torch

        vectors: dict[int, Vector] = {}
        with torch.inference_mode():
            for group in groups([len(ids) for ids in inputs]):
                features = self._tokenizer.pad({"input_ids": [inputs[i] for i in group]}, return_tensors="pt")
                moved = {name: tensor.to(self._model.device) for name, tensor in features.items()}
                computed = self._model(moved)["sentence_embedding"].float().cpu().numpy()
                vectors.update(zip(group, computed, strict=True))
        return [vectors[i] for i in range(len(inputs))]


class Embeddings:
    """The endpoint ``/v1/embeddings``. ``encode`` computes one input, together with those of others."""

    path = "/v1/embeddings"

    def __init__(
        self, name: str, vectors: Vectors, encode: Callable[[TokenIds], Awaitable[Vector]], at_once: int
    ) -> None:
        self._name = name
        self._vectors = vectors
        self._encode = encode
        self._at_once = at_once

    async def __call__(self, body: Any) -> dict[str, Any]:
        request = EmbeddingRequest.model_validate(body)
        if request.dimensions and not self._vectors.matryoshka:
            raise BadRequest(f"the vectors of {self._name} cannot be shortened: leave out dimensions", "dimensions")
        inputs = await asyncio.to_thread(self._inputs, request)
        found = await in_turns(inputs, self._encode, self._at_once)
        if request.dimensions:
            found = [_shorten(vector, request.dimensions) for vector in found]
        tokens = sum(map(len, inputs))
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": _written(vector, request.encoding_format)}
                for i, vector in enumerate(found)
            ],
            "model": self._name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def _inputs(self, request: EmbeddingRequest) -> list[TokenIds]:
        given = [request.input] if isinstance(request.input, str) else request.input
        texts = [part for part in given if isinstance(part, str)]
        lists = [part for part in given if isinstance(part, list)]
        numbers = [part for part in given if isinstance(part, int)]
        if len(texts) + len(lists) > _MOST_INPUTS:
            raise BadRequest(f"{len(given)} inputs are more than the {_MOST_INPUTS} that one request may have", "input")
        inputs = self._vectors.tokenize(texts, request.truncate) if texts else lists or [numbers]
        limit = self._vectors.max_length
        for number, tokens in enumerate(inputs):
            if not tokens or not all(0 <= token < self._vectors.vocabulary for token in tokens):
                raise BadRequest(f"input {number} has token ids that the model does not have, or none", "input")
            if len(tokens) > limit and not request.truncate:
                raise BadRequest(
                    f"input {number} has {len(tokens)} tokens, and {self._name} takes {limit} at most; shorten it, or"
                    " send truncate: true",
                    "input",
                )
        return [tokens[:limit] for tokens in inputs]


async def in_turns(items: Sequence[Any], compute: Callable[[Any], Awaitable[Any]], at_once: int) -> list[Any]:
    """The result of each item. Not all at the same time: between its parts a long request lets others in."""
    found: list[Any] = []
    for start in range(0, len(items), at_once):
        found += await asyncio.gather(*map(compute, items[start : start + at_once]))
    return found


def groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The positions of inputs of these lengths, in groups of like lengths that are small enough to compute at once."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and lengths[i] * (len(group) + 1) > _TOKENS_AT_ONCE:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _shorten(vector: Vector, dimensions: int) -> Vector:
    if dimensions > len(vector):
        raise BadRequest(f"the vectors have {len(vector)} dimensions, not {dimensions}", "dimensions")
    short = vector[:dimensions]
    return short / max(float(np.linalg.norm(short)), 1e-12)


def _written(vector: Vector, encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    written: list[float] = vector.tolist()
    return written


def _says_matryoshka(config: dict[str, Any]) -> bool:
    return bool(config.get("is_matryoshka") or config.get("matryoshka_dimensions"))
