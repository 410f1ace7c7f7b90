"""The deterministic language of the fake model: a token's text is a function of its position in the answer.

Token ``i`` of any answer has the id ``FIRST_ID + i``, so a prompt that ends with such ids is continued at the next
position, and a test can compare any text against the ids that came with it.
"""

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

FIRST_ID = 50_000
EOS_ID = 2


def token_text(position: int) -> str:
    """Text of the token at ``position`` (from 0). Some have none, as when a character is spread over two tokens."""
    match position % 16:
        case 7:
            return ""
        case 8:
            return " 🙂"
        case 15:
            return f" é{position}.\n\n"
        case _:
            return f" w{position}"


def answer_text(length: int, start: int = 0) -> str:
    """The text of the tokens ``start`` to ``length`` (exclusive)."""
    return "".join(token_text(position) for position in range(start, length))


def text_of_ids(ids: Iterable[int]) -> str:
    """The text that belongs to generated token ids; the end-of-sequence id has none."""
    return "".join(token_text(token - FIRST_ID) for token in ids if token >= FIRST_ID)


def tokenize(text: str) -> list[int]:
    """Prompt ids, one per word, all below ``FIRST_ID``."""
    return [100 + zlib.crc32(word.encode()) % 40_000 for word in text.split()]


def chat_prompt_ids(messages: Sequence[dict[str, Any]]) -> list[int]:
    """Prompt ids of a chat: a start id, then each message's role and words."""
    ids = [1]
    for message in messages:
        content = message.get("content") or ""
        parts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
        ids += tokenize(str(message.get("role")))
        for part in parts:
            ids += tokenize(part)
    return ids


def position_after(prompt_ids: Sequence[int]) -> int:
    """The answer position that a prompt of token ids goes on from: 0 unless it ends with generated ids."""
    return prompt_ids[-1] - FIRST_ID + 1 if prompt_ids and prompt_ids[-1] >= FIRST_ID else 0


def vector(text_or_ids: str | Sequence[int], dimensions: int = 8) -> list[float]:
    """The embedding of a text or of token ids: how often it has tokens of each kind."""
    ids = tokenize(text_or_ids) if isinstance(text_or_ids, str) else text_or_ids
    counts = [0.0] * dimensions
    for token in ids:
        counts[token % dimensions] += 1
    return counts


def embeddings(request: dict[str, Any]) -> dict[str, Any]:
    """The body of an answer to ``/v1/embeddings``."""
    given = request["input"]
    inputs = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    vectors: list[Any] = [vector(item, request.get("dimensions") or 8) for item in inputs]
    if request.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in vectors]
    tokens = sum(len(tokenize(item) if isinstance(item, str) else item) for item in inputs)
    return {
        "id": "embd-fake",
        "object": "list",
        "created": 0,
        "data": [{"index": i, "object": "embedding", "embedding": v} for i, v in enumerate(vectors)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
    }


def score(query: str, text: str) -> float:
    """The share of the query's words that the text has."""
    words = set(query.split())
    return len(words & set(text.split())) / len(words)


def reranking(request: dict[str, Any]) -> dict[str, Any]:
    """The body of an answer to ``/v1/rerank``."""
    query, documents = request["query"], request["documents"]
    results: list[dict[str, Any]] = [
        {"index": i, "document": {"text": text}, "relevance_score": score(query, text)}
        for i, text in enumerate(documents)
    ]
    results.sort(key=lambda result: -result["relevance_score"])
    tokens = sum(len(tokenize(query)) + len(tokenize(text)) for text in documents)
    return {"id": "rerank-fake", "usage": {"total_tokens": tokens}, "results": results[: request.get("top_n")]}


def scores(request: dict[str, Any]) -> dict[str, Any]:
    """The body of an answer to ``/v1/score``."""
    query, texts = request["text_1"], request["text_2"]
    tokens = sum(len(tokenize(query)) + len(tokenize(text)) for text in texts)
    data = [{"index": i, "object": "score", "score": score(query, text)} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {"id": "score-fake", "object": "list", "created": 0, "data": data, "usage": usage}


def example(schema: dict[str, Any]) -> Any:
    """A value that a JSON schema allows, always the same."""
    match schema.get("type", "object"):
        case "object":
            return {name: example(part) for name, part in (schema.get("properties") or {}).items()}
        case "array":
            return [example(schema.get("items") or {"type": "string"})]
        case "integer" | "number":
            return 7
        case "boolean":
            return True
        case _:
            return "é🙂"
