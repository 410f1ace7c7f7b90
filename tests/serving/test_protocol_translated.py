"""What the translations make of models that do not send what vLLM sends."""

import json
from typing import Any

import pytest

from aiia_serving.gateway.assemble import Assembler
from aiia_serving.gateway.errors import ApiError
from aiia_serving.gateway.protocols.messages_reply import MessagesReply
from aiia_serving.gateway.protocols.responses_reply import ResponsesReply

pytestmark = pytest.mark.unit


def frame(delta: dict[str, Any], finish: str | None = None, **choice: Any) -> bytes:
    return (
        b"data: %b\n\n"
        % json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **choice}]}).encode()
    )


def call(arguments: str, **fields: Any) -> dict[str, Any]:
    name = {"name": fields.pop("name")} if "name" in fields else {}
    return {"tool_calls": [{**fields, "function": {**name, "arguments": arguments}}]}


class Caller:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""

    async def __call__(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")


DONE = b"data: [DONE]\n\n"
UNNUMBERED = [
    call('{"a"', id="one", name="f"),
    call(": 1}"),
    call("{}", id="two", name="g"),
]


def test_calls_without_an_index() -> None:
    assembler = Assembler(chat=True)
    reply = MessagesReply(Caller(), "id")
    for delta in UNNUMBERED:
        assembler.feed(frame(delta).removeprefix(b"data: "))
        reply.translate(frame(delta))
    reply.translate(DONE)
    calls = assembler.result()["choices"][0]["message"]["tool_calls"]
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        ("one", "f", '{"a": 1}'),
        ("two", "g", "{}"),
    ]
    assert [(part["id"], part["name"], part["input"]) for part in reply.whole()["content"]] == [
        ("one", "f", {"a": 1}),
        ("two", "g", {}),
    ]


def test_the_end_comes_once() -> None:
    for reply in (MessagesReply(Caller(), "id"), ResponsesReply(Caller(), "id")):
        first = reply.translate(frame({"content": "a"}) + frame({}, "stop") + DONE)
        assert first.count(b"event: message_stop") + first.count(b"event: response.completed") == 1
        assert reply.translate(DONE + frame({"content": "b"})) == b""


async def test_an_error_after_the_end_adds_nothing() -> None:
    caller = Caller()
    reply = MessagesReply(caller, "id")
    await reply.start_stream()
    reply.translate(DONE)
    await reply.error(ApiError(502, "late"))
    assert caller.body == b""


@pytest.mark.parametrize("kind", [MessagesReply, ResponsesReply])
async def test_an_error_before_the_first_token(kind: type[MessagesReply | ResponsesReply]) -> None:
    caller = Caller()
    reply = kind(caller, "id")
    await reply.start_stream()
    await reply.error(ApiError(429, "full"))
    assert caller.status == 200
    last = json.loads(caller.body.strip().split(b"\n\n")[-1].split(b"data: ")[1])
    told = last["error"] if kind is MessagesReply else last["response"]["error"]
    assert told["message"] == "full"


def test_what_stopped_an_answer_is_named() -> None:
    reply = MessagesReply(Caller(), "id")
    reply.translate(frame({"content": "a"}) + frame({}, "stop", stop_reason="END") + DONE)
    assert (reply.whole()["stop_reason"], reply.whole()["stop_sequence"]) == ("stop_sequence", "END")


async def test_arguments_that_are_no_object_are_not_passed_off_as_one() -> None:
    whole = {"choices": [{"message": call('{"a', id="one", name="f"), "finish_reason": "tool_calls"}]}
    with pytest.raises(ApiError, match="'f'"):
        await MessagesReply(Caller(), "id").json(whole)
    whole["choices"][0]["finish_reason"] = "length"
    caller = Caller()
    await MessagesReply(caller, "id").json(whole)
    assert json.loads(caller.body)["stop_reason"] == "max_tokens"


def test_frames_that_are_not_json_are_left_out() -> None:
    reply = ResponsesReply(Caller(), "id")
    reply.translate(b"data: nonsense\n\n" + frame({"content": "a"}) + DONE)
    assert reply.whole()["output"][0]["content"][0]["text"] == "a"
