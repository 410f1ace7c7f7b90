"""What a model can do and how much it takes, read from its files without loading it."""

import json
from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines import store

_OF_TASK = {"chat": ("chat", "completions"), "embedding": ("embeddings",), "rerank": ("rerank",), "image": ("images",)}
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "model_max_length")


def of(document: ModelDocument, cache: Path) -> tuple[str, ...]:
    """Words such as ``chat``, ``completions``, ``json_schema``, ``tools``, ``reasoning``, ``vision``, ``rerank``.

    ``token_ids`` says that the engine takes and returns them, ``priority`` that it takes a request's rank.
    """
    found = [*_OF_TASK[document.spec.task]]
    options = document.spec.vllm
    if document.spec.engine == "vllm":
        found += ["json_schema", "token_ids", "priority"]
        if options is not None and options.tool_call_parser:
            found.append("tools")
        if options is not None and options.reasoning_parser:
            found.append("reasoning")
        if "vision_config" in _read(document, cache, "config.json"):
            found.append("vision")
    return tuple(found)


def max_model_len(document: ModelDocument, cache: Path) -> int | None:
    """Tokens of one request at most: the document's word, else the model's. None while its files are not here."""
    spec = document.spec
    if spec.vllm is not None and spec.vllm.max_model_len:
        return spec.vllm.max_model_len
    config = _read(document, cache, "config.json")
    config = {**config, **config.get("text_config", {})}
    own = next((int(config[name]) for name in _LENGTHS if isinstance(config.get(name), int)), None)
    if spec.engine not in ("embedding", "rerank"):
        return own
    said = spec.embedding.max_length if spec.embedding else spec.rerank.max_length if spec.rerank else None
    return said or _read(document, cache, "sentence_bert_config.json").get("max_seq_length") or own


def _read(document: ModelDocument, cache: Path, name: str) -> dict[str, Any]:
    if document.spec.engine == "openai":
        return {}
    try:
        content = json.loads((store.folder(document, cache) / name).read_text())
    except (OSError, ValueError, LookupError):
        return {}
    return content if isinstance(content, dict) else {}
