"""Anthropic's messages, with Anthropic's own client unchanged."""

import json
from typing import Any

import anthropic
import httpx
import pytest

from tests.fakes import FakeUpstream
from tests.fakes.answers import answer_text
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.serving.conftest import KEY

pytestmark = pytest.mark.integration

HI: Any = [{"role": "user", "content": "hi"}]
PIXEL = "iVBORw0KGgo="
TOOLS: Any = [
    {
        "name": "weather",
        "description": "The weather of a town.",
        "input_schema": {"type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "integer"}}},
    },
    {"name": "time", "input_schema": {"type": "object", "properties": {}}},
]
ARGUMENTS = {"town": "é🙂", "days": 7}


@pytest.fixture
def claude(gateway: GatewayProcess) -> anthropic.Anthropic:
    # Sends x-api-key and anthropic-version.
    return anthropic.Anthropic(base_url=gateway.base_url.removesuffix("/v1"), api_key=KEY, max_retries=0)


def post(gateway: GatewayProcess, path: str = "/messages", **fields: Any) -> httpx.Response:
    body = {"model": "fake", "max_tokens": 100, "messages": HI, **fields}
    return httpx.post(gateway.base_url + path, json=body, headers={"x-api-key": KEY}, timeout=60)


def events(text: str) -> list[Any]:
    found = []
    for frame in text.strip().split("\n\n"):
        name, _, data = frame.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return [event for event in found if event["type"] != "ping"]


def test_a_plain_answer(claude: anthropic.Anthropic, upstream: FakeUpstream, control: FakeControl) -> None:
    control.forget_usage()
    answer = claude.messages.create(model="fake", max_tokens=100, messages=HI, system="Be brief.")
    assert [block.type for block in answer.content] == ["text"]
    assert answer.content[0].to_dict()["text"] == answer_text(32)
    assert (answer.role, answer.model, answer.stop_reason, answer.stop_sequence) == (
        "assistant",
        "fake",
        "end_turn",
        None,
    )
    # A start, two roles and three words.
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (6, 33)
    assert answer._request_id
    body = upstream.requests()[-1]["body"]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    (record,) = control.wait_usage(lambda records: len(records) == 1)
    assert (record["kind"], record["completion_tokens"], record["outcome"]) == ("messages", 33, "complete")


def test_a_stream(claude: anthropic.Anthropic, upstream: FakeUpstream) -> None:
    upstream.control(reasoning_tokens=4)
    with claude.messages.stream(model="fake", max_tokens=10, messages=HI) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
    assert text == answer_text(10, start=4)
    thought, said = (block.to_dict() for block in answer.content)
    assert thought == {"type": "thinking", "thinking": answer_text(4), "signature": ""}
    assert said["text"] == text
    assert answer.stop_reason == "max_tokens"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 10)


def test_the_order_of_events(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    upstream.control(reasoning_tokens=2, calls=2)
    seen = [
        (event["type"], event.get("index"), event.get("content_block", {}).get("type"))
        for event in events(post(gateway, stream=True, tools=TOOLS).text)
        if event["type"] != "content_block_delta"
    ]
    assert seen == [
        ("message_start", None, None),
        ("content_block_start", 0, "thinking"),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, "tool_use"),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, "tool_use"),
        ("content_block_stop", 2, None),
        ("message_delta", None, None),
        ("message_stop", None, None),
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_tools(claude: anthropic.Anthropic, upstream: FakeUpstream, stream: bool) -> None:
    upstream.control(calls=2)
    asked: Any = {"model": "fake", "max_tokens": 100, "messages": HI, "tools": TOOLS, "tool_choice": {"type": "any"}}
    if stream:
        with claude.messages.stream(**asked) as answering:
            answer = answering.get_final_message()
    else:
        answer = claude.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    calls = [(block.id, block.name, block.input) for block in answer.content if block.type == "tool_use"]
    assert calls == [("call-0", "weather", ARGUMENTS), ("call-1", "time", {})]
    body = upstream.requests()[-1]["body"]
    assert body["tool_choice"] == "required"
    assert body["tools"][1] == {
        "type": "function",
        "function": {"name": "time", "parameters": {"type": "object", "properties": {}}},
    }
    results: Any = [
        {"type": "tool_result", "tool_use_id": "call-0", "content": [{"type": "text", "text": "rain"}]},
        {"type": "tool_result", "tool_use_id": "call-1", "content": "noon"},
        {"type": "text", "text": "Go on."},
    ]
    content: Any = answer.content
    history: Any = [*HI, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    final = claude.messages.create(model="fake", max_tokens=100, messages=history, tools=TOOLS)
    assert final.stop_reason == "end_turn"
    sent = upstream.requests()[-1]["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert [json.loads(call["function"]["arguments"]) for call in sent[1]["tool_calls"]] == [ARGUMENTS, {}]
    assert sent[2] == {"role": "tool", "tool_call_id": "call-0", "content": "rain"}


def test_images_stops_thinking_and_formats(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    schema = {"type": "object", "properties": {"town": {"type": "string"}}}
    answer = post(
        gateway,
        messages=[{"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}],
        stop_sequences=["END"],
        thinking={"type": "disabled"},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}},
        metadata={"user_id": "u"},
    )
    assert json.loads(answer.json()["content"][0]["text"]) == {"town": "é🙂"}
    body = upstream.requests()[-1]["body"]
    url = f"data:image/png;base64,{PIXEL}"
    assert body["messages"][0]["content"][0] == {"type": "image_url", "image_url": {"url": url}}
    assert body["stop"] == ["END"]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert body["reasoning_effort"] == "low"
    assert "metadata" not in body


def test_tokens_are_counted(claude: anthropic.Anthropic, upstream: FakeUpstream, control: FakeControl) -> None:
    control.set_model("fake", upstream.base_url, engine="vllm")
    control.wait_seen()
    assert claude.messages.count_tokens(model="fake", messages=HI, system="Be brief.").input_tokens == 6


@pytest.mark.parametrize("fields", [{"engine": "openai"}, {"engine": "vllm", "state": "cold"}])
def test_tokens_are_estimated_where_no_tokenizer_answers(
    claude: anthropic.Anthropic, upstream: FakeUpstream, control: FakeControl, fields: dict[str, str]
) -> None:
    control.set_model("fake", upstream.base_url, **fields)
    control.wait_seen()

    def count(content: Any, **more: Any) -> int:
        messages: Any = [{"role": "user", "content": content}]
        return claude.messages.count_tokens(model="fake", messages=messages, **more).input_tokens

    assert 1 <= count("hi") < 20
    assert 1000 <= count("word" * 1000) < 1020
    assert count("hi", tools=TOOLS) > count("hi", system="Be brief.") > count("hi")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL * 1000}}
    assert 1000 <= count([image, {"type": "text", "text": "hi"}]) < 1030


def test_a_model_without_conversations_counts_no_tokens(
    claude: anthropic.Anthropic, upstream: FakeUpstream, control: FakeControl
) -> None:
    control.set_model("fake", upstream.base_url, task="embedding")
    control.wait_seen()
    with pytest.raises(anthropic.NotFoundError, match="tokenizer"):
        claude.messages.count_tokens(model="fake", messages=HI)


@pytest.mark.parametrize(
    ("fields", "status", "kind", "named"),
    [
        ({"model": "nope"}, 404, "not_found_error", "nope"),
        ({"max_tokens": 0}, 400, "invalid_request_error", "max_tokens"),
        ({"priority": -1}, 400, "invalid_request_error", "priority"),
        ({"messages": []}, 400, "invalid_request_error", "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, 400, "invalid_request_error", "content"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]},
            400,
            "invalid_request_error",
            "tool_result",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web"}]}, 400, "invalid_request_error", "tools"),
        ({"tool_choice": {"type": "tool"}}, 400, "invalid_request_error", "tool_choice"),
        ({"system": "x" * 100_001}, 413, "request_too_large", "100000"),
    ],
)
def test_bad_requests(
    gateway: GatewayProcess, upstream: FakeUpstream, fields: dict[str, Any], status: int, kind: str, named: str
) -> None:
    answer = post(gateway, **fields)
    assert answer.status_code == status
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == kind
    assert named in answer.json()["error"]["message"]
    assert answer.json()["request_id"] == answer.headers["request-id"]


def test_errors_before_the_body_is_read(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    url = f"{gateway.base_url}/messages"
    nobody = httpx.post(url, json={})
    assert (nobody.status_code, nobody.json()["error"]["type"]) == (401, "authentication_error")
    for body in (b"{", b"[" * 90_000, b'{"model": NaN}', b'{"model": "\\ud800"}'):
        answer = httpx.post(url, content=body, headers={"x-api-key": KEY})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("fault", ["die", "no_done", "error_frame"])
def test_a_stream_that_breaks_ends_with_one_error(
    claude: anthropic.Anthropic, gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl, fault: str
) -> None:
    control.set_model("fake", upstream.base_url, exact_continuation=False)
    control.wait_seen()
    upstream.control(fault=fault, fault_after=5, fault_times=2, tokens_per_second=50)
    told = [event["type"] for event in events(post(gateway, stream=True).text)]
    assert told[-1] == "error"
    assert told.count("error") == 1
    assert "message_stop" not in told
    with (
        pytest.raises(anthropic.APIStatusError),
        claude.messages.stream(model="fake", max_tokens=100, messages=HI) as stream,
    ):
        stream.until_done()


def test_a_stream_goes_on_at_another_replica(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    upstream.control(fault="die", fault_after=5, fault_times=1, tokens_per_second=50)
    told = events(post(gateway, stream=True).text)
    deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == answer_text(32)
    kinds = [event["type"] for event in told]
    assert [kinds.count(kind) for kind in ("message_start", "message_delta", "message_stop")] == [1, 1, 1]
    assert told[-2]["usage"]["output_tokens"] == 33


def test_those_who_wait_get_pings(gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl) -> None:
    control.set_model("fake", upstream.base_url, state="starting")
    control.wait_seen()
    body = {"model": "fake", "max_tokens": 5, "messages": HI, "stream": True}
    with httpx.stream("POST", f"{gateway.base_url}/messages", json=body, headers={"x-api-key": KEY}) as answer:
        pieces = answer.iter_text()
        assert next(pieces) == 'event: ping\ndata: {"type":"ping"}\n\n'
        control.set_model("fake", upstream.base_url)
        assert events("".join(pieces))[-1] == {"type": "message_stop"}
