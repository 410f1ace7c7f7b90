"""An answer whose model dies goes on by the ids of its tokens, and the caller does not notice."""

import json
from typing import Any

import httpx
import openai
import pytest

from aiia_serving.gateway.transcript import Transcript
from tests.fakes import FakeUpstream
from tests.fakes.answers import answer_text
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.serving.conftest import KEY

pytestmark = pytest.mark.integration

HI: Any = [{"role": "user", "content": "hi"}]
# Slow enough for the first tokens to be through before the connection breaks, which throws away what is on its way.
PACE = 50


@pytest.fixture(autouse=True)
def dying(upstream: FakeUpstream) -> FakeUpstream:
    upstream.control(fault="die", fault_after=5, fault_times=1, tokens_per_second=PACE)
    return upstream


def frames(gateway: GatewayProcess, path: str = "chat/completions", **fields: Any) -> list[Any]:
    prompt = {"messages": HI} if path == "chat/completions" else {"prompt": "hi", "max_tokens": 32}
    body = {"model": "fake", "stream": True, **prompt, **fields}
    answer = httpx.post(f"{gateway.base_url}/{path}", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.parametrize("fault", ["die", "no_done", "error_frame"])
def test_a_chat_goes_on(gateway: GatewayProcess, upstream: FakeUpstream, client: openai.OpenAI, fault: str) -> None:
    upstream.control(fault=fault)
    chunks = list(client.chat.completions.create(model="fake", messages=HI, stream=True, temperature=0))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer_text(32)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_rest_is_asked_for_by_ids(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    *_, last = frames(gateway, temperature=0)
    assert last == "[DONE]"
    first, second = upstream.requests()[-2:]
    assert first["body"]["return_token_ids"] is True
    assert second["path"] == "/v1/completions"
    assert len(second["body"]["prompt"]) > 5
    assert second["body"]["temperature"] == 0


def test_a_completion_goes_on(gateway: GatewayProcess) -> None:
    *answer, last = frames(gateway, "completions")
    assert last == "[DONE]"
    assert "".join(frame["choices"][0]["text"] for frame in answer if frame["choices"]) == answer_text(32)


def test_usage_is_that_of_the_whole_answer(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    broken = frames(gateway, stream_options={"include_usage": True})[-2]["usage"]
    whole = frames(gateway, stream_options={"include_usage": True})[-2]["usage"]
    assert upstream.stats()["faulted"] >= 1
    assert broken == whole


def test_ids_are_only_for_those_who_ask(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    assert not any("token_ids" in json.dumps(frame) for frame in frames(gateway))
    upstream.control(fault_times=1)
    with_ids = [frame for frame in frames(gateway, return_token_ids=True)[:-1] if frame["choices"]]
    ids = [token for frame in with_ids for token in frame["choices"][0].get("token_ids") or []]
    upstream.control(fault="none")
    undisturbed = [frame for frame in frames(gateway, return_token_ids=True)[:-1] if frame["choices"]]
    assert ids == [token for frame in undisturbed for token in frame["choices"][0].get("token_ids") or []]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 7},
        {"stop": ["never"]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
    ],
)
def test_what_cannot_be_exact_is_an_honest_error(gateway: GatewayProcess, fields: dict[str, Any]) -> None:
    last = frames(gateway, **fields)[-1]
    assert last["error"]["code"] == "stream_interrupted"


def test_a_model_without_token_ids_is_an_honest_error(
    gateway: GatewayProcess, control: FakeControl, upstream: FakeUpstream
) -> None:
    control.set_model("fake", upstream.base_url, exact_continuation=False)
    control.wait_seen()
    assert frames(gateway)[-1]["error"]["code"] == "stream_interrupted"


def test_the_models_own_limit_is_that_of_the_whole_answer(
    gateway: GatewayProcess, control: FakeControl, upstream: FakeUpstream
) -> None:
    control.set_model("fake", upstream.base_url, max_new_tokens=20)
    control.wait_seen()
    *answer, last = frames(gateway)
    assert last == "[DONE]"
    assert "".join(frame["choices"][0]["delta"].get("content") or "" for frame in answer) == answer_text(20)
    assert answer[-1]["choices"][0]["finish_reason"] == "length"


def test_it_may_die_again_and_again(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    upstream.control(fault_times=3)
    *answer, last = frames(gateway)
    assert last == "[DONE]"
    assert "".join(frame["choices"][0]["delta"].get("content") or "" for frame in answer) == answer_text(32)


def test_each_replica_that_got_further_starts_the_time_for_tries_anew(
    control: FakeControl, upstream: FakeUpstream
) -> None:
    upstream.control(fault_after=10, fault_times=2)
    with GatewayProcess(control.url, AIIA_GATEWAY_RETRY_S="0.1") as hasty:
        *answer, last = frames(hasty, response_format={"type": "text"})
    assert last == "[DONE]"
    assert "".join(frame["choices"][0]["delta"].get("content") or "" for frame in answer) == answer_text(32)


def test_a_cut_choice_is_not_passed_off_as_whole() -> None:
    transcript = Transcript()
    for choice in ({"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}):
        transcript.add(b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode())
    transcript.add(b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n')
    assert transcript.read().finished == {0}


def test_it_may_die_twice_while_text_is_held_back(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    # After eight tokens the first half of a character is out, whose text waits for the other half.
    upstream.control(fault_after=8, fault_times=2)
    *answer, last = frames(gateway, max_tokens=20)
    assert last == "[DONE]"
    text = "".join(frame["choices"][0]["delta"].get("content") or "" for frame in answer)
    assert text == answer_text(20)
