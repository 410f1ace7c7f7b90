"""OpenAI's responses, with OpenAI's own client unchanged."""

import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.fakes import FakeUpstream
from tests.fakes.answers import answer_text
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.serving.conftest import KEY

pytestmark = pytest.mark.integration

HEADERS = {"Authorization": f"Bearer {KEY}"}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOOLS: Any = [
    {
        "type": "function",
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "integer"}}},
        "strict": False,
    },
    {"type": "function", "name": "time", "parameters": {"type": "object", "properties": {}}},
]
ARGUMENTS = {"town": "é🙂", "days": 7}


def post(gateway: GatewayProcess, **fields: Any) -> httpx.Response:
    body = {"model": "fake", "input": "hi", **fields}
    return httpx.post(f"{gateway.base_url}/responses", json=body, headers=HEADERS, timeout=60)


def events(text: str) -> list[Any]:
    found = []
    for frame in text.strip().split("\n\n"):
        if frame.startswith(":"):
            continue
        name, _, data = frame.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def test_a_plain_answer(client: openai.OpenAI, upstream: FakeUpstream, control: FakeControl) -> None:
    control.forget_usage()
    answer = client.responses.create(model="fake", input="hi", instructions="Be brief.", store=True)
    assert answer.output_text == answer_text(32)
    assert (answer.status, answer.model, answer.error, answer.incomplete_details) == ("completed", "fake", None, None)
    assert answer.to_dict()["store"] is False
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (6, 33, 39)
    body = upstream.requests()[-1]["body"]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    (record,) = control.wait_usage(lambda records: len(records) == 1)
    assert (record["kind"], record["completion_tokens"], record["outcome"]) == ("responses", 33, "complete")


def test_a_stream(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    upstream.control(reasoning_tokens=4)
    with client.responses.stream(model="fake", input="hi", max_output_tokens=10) as stream:
        told = list(stream)
    text = "".join(event.delta for event in told if event.type == "response.output_text.delta")
    assert told[-1].type == "response.incomplete"
    answer = told[-1].response
    assert text == answer.output_text == answer_text(10, start=4)
    thought: Any = answer.output[0]
    assert thought.content[0].text == answer_text(4)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert [item.to_dict()["status"] for item in answer.output] == ["completed", "incomplete"]
    assert answer.usage is not None
    assert answer.usage.output_tokens == 10


def test_the_order_of_events(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    upstream.control(tokens=1, reasoning_tokens=0)
    kinds = [event["type"].removeprefix("response.") for event in events(post(gateway, stream=True).text)]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    upstream.control(calls=2)
    told = events(post(gateway, stream=True, tools=TOOLS).text)
    assert [event["type"].removeprefix("response.") for event in told[2:-1]] == [
        "output_item.added",
        *["function_call_arguments.delta"] * 2,
        "function_call_arguments.done",
        "output_item.done",
    ] * 2
    items = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert told[-1]["response"]["output"] == items


@pytest.mark.parametrize("stream", [True, False])
def test_tools(client: openai.OpenAI, upstream: FakeUpstream, stream: bool) -> None:
    upstream.control(calls=2, reasoning_tokens=2)
    asked: Any = {"model": "fake", "input": "hi", "tools": TOOLS, "tool_choice": {"type": "function", "name": "time"}}
    if stream:
        with client.responses.stream(**asked) as answering:
            answer: Any = answering.get_final_response()
    else:
        answer = client.responses.create(**asked)
    calls = [(item.call_id, item.name, json.loads(item.arguments)) for item in answer.output[1:]]
    assert calls == [("call-0", "weather", ARGUMENTS), ("call-1", "time", {})]
    body = upstream.requests()[-1]["body"]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "time"}}
    assert body["tools"][0]["function"]["description"] == "The weather of a town."
    results: Any = [
        {"type": "function_call_output", "call_id": "call-0", "output": "rain"},
        {"type": "function_call_output", "call_id": "call-1", "output": [{"type": "input_text", "text": "noon"}]},
    ]
    history: Any = [{"role": "user", "content": "hi"}, *answer.output, *results]
    final = client.responses.create(model="fake", input=history, tools=TOOLS)
    assert final.output_text
    sent = upstream.requests()[-1]["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["reasoning"] == answer_text(2)
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call-0", "call-1"]
    assert sent[3]["content"] == "noon"


def test_formats(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    class Town(BaseModel):
        name: str
        people: int

    answer = client.responses.parse(model="fake", input="hi", text_format=Town, reasoning={"effort": "low"})
    assert answer.output_parsed == Town(name="é🙂", people=7)
    body = upstream.requests()[-1]["body"]
    assert body["response_format"]["json_schema"]["name"] == "Town"
    assert body["reasoning_effort"] == "low"


def test_images_and_conversations(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    given: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "two", "annotations": []}],
        },
        {"role": "user", "content": [{"type": "input_image", "image_url": PIXEL, "detail": "low"}]},
    ]
    client.responses.create(model="fake", instructions="Be brief.", input=given)
    assert upstream.requests()[-1]["body"]["messages"] == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]},
    ]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "nope"}, 404, "model"),
        ({"previous_response_id": "resp_1"}, 400, "previous_response_id"),
        ({"conversation": "conv_1"}, 400, "conversation"),
        ({"background": True}, 400, "background"),
        ({"input": []}, 400, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 400, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/"}]}]}, 400, "input"),
        ({"tools": [{"type": "web_search"}]}, 400, "tools"),
        ({"priority": -1}, 400, "priority"),
    ],
)
def test_bad_requests(
    gateway: GatewayProcess, upstream: FakeUpstream, fields: dict[str, Any], status: int, param: str
) -> None:
    answer = post(gateway, **fields)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].split(".")[0] == param


@pytest.mark.parametrize("fault", ["die", "no_done", "error_frame"])
def test_a_stream_that_breaks_ends_as_failed(
    gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl, fault: str
) -> None:
    control.set_model("fake", upstream.base_url, exact_continuation=False)
    control.wait_seen()
    upstream.control(fault=fault, fault_after=5, fault_times=1, tokens_per_second=50)
    told = events(post(gateway, stream=True).text)
    kinds = [event["type"] for event in told]
    assert kinds[-1] == "response.failed"
    assert kinds.count("response.failed") == 1
    assert "response.completed" not in kinds
    assert told[-1]["response"]["error"]["code"] == "server_error"
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == answer_text(5)


def test_a_stream_goes_on_at_another_replica(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    upstream.control(fault="die", fault_after=5, fault_times=1, tokens_per_second=50)
    told = events(post(gateway, stream=True).text)
    kinds = [event["type"] for event in told]
    assert [kinds.count(f"response.{kind}") for kind in ("created", "output_item.done", "completed")] == [1, 1, 1]
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == answer_text(32)
    assert told[-1]["response"]["usage"]["output_tokens"] == 33
