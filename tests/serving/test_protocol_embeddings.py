"""Embeddings and reranking over HTTP: queue, tries and metering as for every other work."""

from typing import Any

import httpx
import openai
import pytest

from tests.fakes import FakeUpstream
from tests.fakes.answers import tokenize, vector
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.serving.conftest import KEY

pytestmark = pytest.mark.integration

HEADERS = {"Authorization": f"Bearer {KEY}"}


def test_inputs_of_every_kind(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    for given, wanted in (
        ("one two", [vector("one two")]),
        (["one", "two three"], [vector("one"), vector("two three")]),
        ([3, 4], [vector([3, 4])]),
        ([[3, 4], [5]], [vector([3, 4]), vector([5])]),
    ):
        # The client asks for base64 by itself.
        answer = client.embeddings.create(model="fake", input=given)
        assert [item.embedding for item in answer.data] == wanted
        assert answer.model == "fake"
    assert upstream.requests()[-1]["body"]["encoding_format"] == "base64"
    floats = client.embeddings.create(model="fake", input="one", dimensions=4, encoding_format="float")
    assert floats.data[0].embedding == vector("one", 4)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"prompt": "a"}, "prompt"),
    ],
)
def test_bad_embeddings(gateway: GatewayProcess, upstream: FakeUpstream, fields: dict[str, Any], param: str) -> None:
    body = {"model": "fake", "input": "a", **fields}
    answer = httpx.post(f"{gateway.base_url}/embeddings", json=body, headers=HEADERS)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] == param


@pytest.mark.parametrize("engine", ["openai", "vllm"])
def test_reranking(gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl, engine: str) -> None:
    control.set_model("fake", upstream.base_url, engine=engine)
    control.wait_seen()
    control.forget_usage()
    documents = ["a tree", {"text": "a red tree house"}, "nothing"]
    body = {"model": "fake", "query": "red tree", "documents": documents, "top_n": 2}
    answer = httpx.post(f"{gateway.base_url}/rerank", json=body, headers=HEADERS).json()
    assert answer["results"] == [
        {"index": 1, "relevance_score": 1.0, "document": {"text": "a red tree house"}},
        {"index": 0, "relevance_score": 0.5, "document": {"text": "a tree"}},
    ]
    assert answer["usage"] == {"prompt_tokens": 13, "total_tokens": 13}
    assert upstream.requests()[-1]["path"] == ("/v1/score" if engine == "vllm" else "/v1/rerank")
    (record,) = control.wait_usage(lambda records: len(records) == 1)
    assert (record["kind"], record["prompt_tokens"], record["outcome"]) == ("rerank", 13, "complete")


def test_usage_is_metered_once_and_a_failing_model_tried_again(
    client: openai.OpenAI, upstream: FakeUpstream, control: FakeControl
) -> None:
    control.forget_usage()
    upstream.control(fault="refuse", fault_times=2)
    assert client.embeddings.create(model="fake", input="one two three").usage.prompt_tokens == len(tokenize("a b c"))
    (record,) = control.wait_usage(lambda records: len(records) == 1)
    assert (record["kind"], record["prompt_tokens"], record["outcome"]) == ("embeddings", 3, "complete")


def test_a_caller_that_leaves_frees_the_model(
    gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl
) -> None:
    upstream.control(first_token_s=600)
    control.forget_usage()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{gateway.base_url}/embeddings",
            json={"model": "fake", "input": "a"},
            headers=HEADERS,
            timeout=httpx.Timeout(30, read=0.5),
        )
    assert upstream.wait_running(0, wait=2)["running"] == 0
    (record,) = control.wait_usage(lambda records: len(records) == 1)
    assert record["outcome"] == "cancelled"


def test_a_model_for_other_work_says_what_it_does(
    gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl
) -> None:
    control.set_model("fake", upstream.base_url, capabilities=["chat", "completions"])
    control.wait_seen()
    answer = httpx.post(f"{gateway.base_url}/embeddings", json={"model": "fake", "input": "a"}, headers=HEADERS)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_by_model"
    assert "chat" in answer.json()["error"]["message"]
