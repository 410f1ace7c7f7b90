"""Reranking: how well each document answers a query, in the shape that Jina, Cohere and vLLM share."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import BaseModel, Field

from aiia_serving.engines.http import BadRequest
from aiia_serving.engines.vectors import Vectors, groups, in_turns

# What a tokenizer makes of one text or pair: token ids and, for some models, which text each is of.
Item = dict[str, list[int]]

_MOST_DOCUMENTS = 1000


class _Document(BaseModel):
    text: str


class RerankRequest(BaseModel):
    """``truncate`` cuts documents that are too long instead of refusing them."""

    model: str | None = None
    query: str = Field(min_length=1)
    documents: Annotated[list[str | _Document], Field(min_length=1, max_length=_MOST_DOCUMENTS)]
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = True
    truncate: bool = False


class Scorer(Protocol):
    """A way to score.

    ``prepare`` makes items of a request, ``compute`` takes any mixture of items, of several requests, and ``scores``
    makes scores of the documents from what was computed for the items of one.
    """

    max_length: int

    def prepare(self, query: str, documents: list[str], truncate: bool) -> list[Item]: ...

    def compute(self, items: Sequence[Item]) -> list[Any]: ...

    def scores(self, computed: list[Any]) -> list[float]: ...


class CrossScorer:
    """A cross-encoder: reads query and document together. Scores are from 0 to 1."""

    def __init__(self, folder: str, max_length: int | None) -> None:
        from sentence_transformers import CrossEncoder

        self._model = CrossEncoder(folder, local_files_only=True)
        if self._model.num_labels != 1:
            raise ValueError(f"a model that scores has one label, and this one has {self._model.num_labels}")
        self._tokenizer: Any = self._model.tokenizer
        self.max_length = max_length or int(self._model.max_seq_length or self._tokenizer.model_max_length)

    def prepare(self, query: str, documents: list[str], truncate: bool) -> list[Item]:
        limit = {"truncation": "only_second", "max_length": self.max_length} if truncate else {"truncation": False}
        found = self._tokenizer([query] * len(documents), documents, padding=False, verbose=False, **limit)
        return [{name: found[name][i] for name in found} for i in range(len(documents))]

    def compute(self, items: Sequence[Item]) -> list[Any]:
        import torch

        scores: dict[int, float] = {}
        with torch.inference_mode():
            for group in groups([len(item["input_ids"]) for item in items]):
                features = self._tokenizer.pad([items[i] for i in group], return_tensors="pt")
                moved = {name: tensor.to(self._model.device) for name, tensor in features.items()}
                logits = self._model.model(**moved).logits.float()
                scores.update(zip(group, torch.sigmoid(logits).flatten().tolist(), strict=True))
        return [scores[i] for i in range(len(items))]

    def scores(self, computed: list[Any]) -> list[float]:
        return computed


class VectorScorer:
    """An embedding model: the cosine of the angle between query and document, from -1 to 1.

    Far quicker than a cross-encoder and less exact: it never reads the two together.
    """

    def __init__(self, folder: str, max_length: int | None) -> None:
        self._vectors = Vectors(folder, max_length)
        self.max_length = self._vectors.max_length

    def prepare(self, query: str, documents: list[str], truncate: bool) -> list[Item]:
        return [{"input_ids": ids} for ids in self._vectors.tokenize([query, *documents], truncate)]

    def compute(self, items: Sequence[Item]) -> list[Any]:
        return self._vectors.encode([item["input_ids"] for item in items])

    def scores(self, computed: list[Any]) -> list[float]:
        query, *documents = (vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in computed)
        return [float(query @ document) for document in documents]


def load_scorer(folder: str, max_length: int | None) -> Scorer:
    """A cross-encoder if the model is one, else the cosine similarity of its vectors."""
    architectures = json.loads((Path(folder) / "config.json").read_text()).get("architectures") or []
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        return CrossScorer(folder, max_length)
    return VectorScorer(folder, max_length)


class Rerank:
    """The endpoint ``/v1/rerank``. ``compute`` takes one item, together with those of others."""

    path = "/v1/rerank"

    def __init__(self, name: str, scorer: Scorer, compute: Callable[[Item], Awaitable[Any]], at_once: int) -> None:
        self._name = name
        self._scorer = scorer
        self._compute = compute
        self._at_once = at_once

    async def __call__(self, body: Any) -> dict[str, Any]:
        request = RerankRequest.model_validate(body)
        texts = [part if isinstance(part, str) else part.text for part in request.documents]
        items = await asyncio.to_thread(self._scorer.prepare, request.query, texts, request.truncate)
        lengths = [len(item["input_ids"]) for item in items]
        if max(lengths) > self._scorer.max_length:
            raise BadRequest(
                f"the longest text has {max(lengths)} tokens, and {self._name} takes {self._scorer.max_length} at"
                " most; shorten it, or send truncate: true",
                "documents",
            )
        scores = self._scorer.scores(await in_turns(items, self._compute, self._at_once))
        order = sorted(range(len(texts)), key=lambda i: (-scores[i], i))[: request.top_n]
        return {
            "id": f"rerank-{uuid.uuid4().hex}",
            "model": self._name,
            "results": [
                {"index": i, "relevance_score": scores[i]}
                | ({"document": {"text": texts[i]}} if request.return_documents else {})
                for i in order
            ],
            "usage": {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)},
        }
