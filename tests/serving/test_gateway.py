"""The gateway over HTTP, with OpenAI's own client unchanged."""

import json
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tests.fakes import FakeUpstream
from tests.fakes.answers import FIRST_ID, answer_text
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.serving.conftest import KEY

pytestmark = pytest.mark.integration

HI: Any = [{"role": "user", "content": "hi"}]


def raw_stream(gateway: GatewayProcess, **fields: Any) -> tuple[int, str]:
    """Status and whole text of a streamed chat, asked for as another role that wants events."""
    headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}", "X-Aiia-Events": "1"}
    body = {"model": "fake", "messages": HI, "stream": True, **fields}
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers, timeout=60)
    return answer.status_code, answer.text


def data(text: str) -> list[Any]:
    """The parsed data of the frames that are the model's, without the end mark."""
    lines = [line for line in text.split("\n\n") if line.startswith("data: ") and line != "data: [DONE]"]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def statuses(text: str) -> list[Any]:
    head = "event: aiia.status\ndata: "
    return [json.loads(frame.removeprefix(head)) for frame in text.split("\n\n") if frame.startswith(head)]


def content(frames: list[Any]) -> str:
    return "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames if frame.get("choices"))


def test_models_are_listed_with_their_state(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    (model,) = [model for model in client.models.list() if model.id == "fake"]
    state: Any = model.to_dict()["aiia"]
    assert state["state"] == "ready"
    assert client.models.retrieve("fake").id == "fake"


def test_a_stream(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    chunks = list(
        client.chat.completions.create(model="fake", messages=HI, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer_text(32)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 33


def test_a_plain_answer_is_asked_for_as_a_stream(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    answer = client.chat.completions.create(model="fake", messages=HI)
    assert answer.choices[0].message.content == answer_text(32)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 36
    assert upstream.requests()[-1]["body"]["stream"] is True


def test_a_plain_completion(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    answer = client.completions.create(model="fake", prompt="hi", max_tokens=5)
    assert answer.choices[0].text == answer_text(5)
    assert answer.choices[0].finish_reason == "length"


def test_an_answer_is_continued_by_token_ids(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    _, text = raw_stream(gateway, return_token_ids=True, max_tokens=10)
    frames = data(text)
    ids = frames[0]["prompt_token_ids"] + [i for frame in frames for i in frame["choices"][0].get("token_ids", [])]
    body = {"model": "fake", "prompt": ids, "stream": False}
    headers = {"Authorization": f"Bearer {KEY}"}
    rest = httpx.post(f"{gateway.base_url}/completions", json=body, headers=headers).json()
    assert content(frames) + rest["choices"][0]["text"] == answer_text(32)


def test_reasoning_is_passed_on_and_assembled(
    client: openai.OpenAI, gateway: GatewayProcess, upstream: FakeUpstream
) -> None:
    upstream.control(reasoning_tokens=4)
    answer = client.chat.completions.create(model="fake", messages=HI)
    assert answer.choices[0].message.to_dict()["reasoning"] == answer_text(4)
    assert answer.choices[0].message.content == answer_text(32, start=4)


def test_token_ids_are_kept_from_models_that_have_none(
    gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl
) -> None:
    upstream.control(models=["plain", "fake"])
    control.set_model("plain", upstream.base_url, exact_continuation=False)
    control.wait_seen()
    raw_stream(gateway, model="plain", return_token_ids=True)
    assert "return_token_ids" not in upstream.requests()[-1]["body"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "nope"}, 404, "model_not_found", "model"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"priority": -1}, 400, "unknown_parameter", "priority"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"model": None}, 400, "invalid_value", "model"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]}
                ]
            },
            400,
            "invalid_value",
            "messages.0.content.0.image_url.image_url.url",
        ),
        ({"stream_options": {"include_usage": True}, "stream": False}, 400, None, "stream_options"),
        ({"messages": [{"role": "user", "content": "x" * 100_001}]}, 413, "request_too_large", None),
    ],
)
def test_bad_requests(
    gateway: GatewayProcess, upstream: FakeUpstream, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    body = {"model": "fake", "messages": HI, **fields}
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"


def test_bodies_that_are_not_json(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    for body in (b"{", b"[" * 100_000, b"\xff"):
        answer = httpx.post(
            f"{gateway.base_url}/chat/completions", content=body, headers={"Authorization": f"Bearer {KEY}"}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] in ("invalid_json", "request_too_large")


def test_an_unknown_model_lists_what_there_is(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    with pytest.raises(openai.NotFoundError, match=r"Models here: .*fake"):
        client.chat.completions.create(model="nope", messages=HI)


def test_other_routes_do_not_reach_the_model(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    for method, path in (("POST", "/load_lora_adapter"), ("GET", "/../version"), ("GET", "/chat/completions")):
        answer = httpx.request(method, gateway.base_url + path, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code in (404, 405)
        assert answer.json()["error"]["code"] == "unknown_url"


def test_keys(gateway: GatewayProcess, control: FakeControl, upstream: FakeUpstream) -> None:
    def status(authorization: str | None) -> int:
        headers = {"Authorization": authorization} if authorization else {}
        return httpx.get(f"{gateway.base_url}/models", headers=headers).status_code

    assert status(None) == 401
    assert status("Bearer nonsense") == 401
    assert status("Basic abc") == 401
    assert status("Bearer sk-unknown") == 401
    control.add_key("sk-short-lived", "carol")
    asked = control.verifications
    assert [status("Bearer sk-short-lived") for _ in range(5)] == [200] * 5
    assert control.verifications == asked + 1
    assert status(f"Bearer {INTERNAL_TOKEN}") == 200


def test_a_day_s_share_that_is_used_up_is_said_until_there_is_more(
    gateway: GatewayProcess, control: FakeControl
) -> None:
    def answer() -> httpx.Response:
        return httpx.get(f"{gateway.base_url}/models", headers={"Authorization": "Bearer sk-much-used"})

    refusal = {"status": 429, "detail": "You have used your 50 tokens of today.", "retry_after": 3600}
    control.add_key("sk-much-used", "dora", refusal)
    assert answer().status_code == 429
    assert answer().headers["Retry-After"] == "3600"
    assert answer().json()["error"]["code"] == "insufficient_quota"
    assert "50 tokens" in answer().json()["error"]["message"]
    control.add_key("sk-much-used", "dora")
    assert answer().status_code == 200


def test_status_events_and_then_the_models_bytes(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    status, text = raw_stream(gateway, max_tokens=3, return_token_ids=True)
    assert status == 200
    assert statuses(text) == [{"phase": "running"}]
    frames = data(text)
    assert content(frames) == answer_text(3)
    assert [i for frame in frames for i in frame["choices"][0].get("token_ids", [])] == [
        FIRST_ID,
        FIRST_ID + 1,
        FIRST_ID + 2,
    ]
    assert text.endswith("data: [DONE]\n\n")


def test_a_starting_model_holds_its_requests_and_tells(
    gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl
) -> None:
    control.set_model("fake", upstream.base_url, state="starting", reason="Loading", progress=0.4, eta_s=21)
    control.wait_seen()
    headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}", "X-Aiia-Events": "1"}
    body = {"model": "fake", "messages": HI, "stream": True}
    with httpx.stream("POST", f"{gateway.base_url}/chat/completions", json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: aiia.status"
        told = json.loads(next(lines).removeprefix("data: "))
        assert told == {"phase": "starting", "state": "starting", "reason": "Loading", "progress": 0.4, "eta_s": 21}
        control.set_model("fake", upstream.base_url)
        rest = list(lines)
    assert 'data: {"phase": "running"}' in rest
    assert "data: [DONE]" in rest


def test_callers_without_events_get_comments_while_they_wait(
    client: openai.OpenAI, upstream: FakeUpstream, control: FakeControl
) -> None:
    control.set_model("fake", upstream.base_url, state="starting")
    control.wait_seen()
    threading.Timer(0.2, control.set_model, ("fake", upstream.base_url)).start()
    chunks = client.chat.completions.create(model="fake", messages=HI, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer_text(32)


def test_a_failed_model_is_said_to_have_failed(
    client: openai.OpenAI, upstream: FakeUpstream, control: FakeControl
) -> None:
    control.set_model("fake", upstream.base_url, state="failed", reason="No memory left.")
    control.wait_seen()
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="fake", messages=HI)
    assert failed.value.status_code == 503
    assert "No memory left." in failed.value.message
    assert int(failed.value.response.headers["retry-after"]) > 0


def test_the_queue_tells_positions_and_is_bounded(
    gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl
) -> None:
    control.set_model("fake", upstream.base_url, max_in_flight=1)
    control.wait_seen()
    upstream.control(fault="stall", fault_after=1, fault_times=1)
    url, headers = (
        f"{gateway.base_url}/chat/completions",
        {"Authorization": f"Bearer {INTERNAL_TOKEN}", "X-Aiia-Events": "1"},
    )
    body = {"model": "fake", "messages": HI, "stream": True}
    with httpx.Client(timeout=30) as http:
        with http.stream("POST", url, json=body, headers=headers) as first:
            # An iterator that is let go closes its connection.
            running = first.iter_raw()
            assert next(running).startswith(b"event: aiia.status")
            waiting = [
                http.send(http.build_request("POST", url, json=body, headers=headers), stream=True) for _ in range(4)
            ]
            streams = [answer.iter_raw() for answer in waiting]
            heads = [next(stream) for stream in streams]
            positions = [json.loads(head.split(b"data: ")[1].split(b"\n")[0])["position"] for head in heads]
            assert sorted(positions) == [1, 2, 3, 4]
            refused = http.post(url, json=body, headers=headers)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert int(refused.headers["retry-after"]) > 0
            # One who leaves while waiting gives up its place; nothing of it ever reaches the model.
            waiting.pop(0).close()
        for answer in waiting:
            answer.close()
    assert upstream.wait_running(0)["running"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_that_leaves_frees_the_model(gateway: GatewayProcess, upstream: FakeUpstream, stream: bool) -> None:
    upstream.control(tokens=100_000, tokens_per_second=200)
    before = upstream.stats()["disconnected"]
    body = {"model": "fake", "messages": HI, "stream": stream}
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(timeout=httpx.Timeout(30, read=0.5)) as http:
        if stream:
            with http.stream("POST", f"{gateway.base_url}/chat/completions", json=body, headers=headers) as answer:
                chunks = answer.iter_raw()
                next(chunks)
                assert upstream.wait_running(1)["running"] == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers)
    stats = upstream.wait_running(0, wait=2)
    assert (stats["running"], stats["disconnected"]) == (0, before + 1)


@pytest.mark.parametrize("fault", ["refuse", "html", "status"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_fails_before_its_first_byte_is_tried_again(
    client: openai.OpenAI, upstream: FakeUpstream, fault: str, stream: bool
) -> None:
    upstream.control(fault=fault, fault_status=500, fault_times=2)
    if stream:
        chunks = client.chat.completions.create(model="fake", messages=HI, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        text = client.chat.completions.create(model="fake", messages=HI).choices[0].message.content or ""
    assert text == answer_text(32)


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_fails_before_its_first_token_is_tried_again(
    client: openai.OpenAI, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.control(fault="error_frame", fault_times=2)
    asked: Any = {"model": "fake", "messages": HI}
    if stream:
        chunks = client.chat.completions.create(**asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer_text(32)
    else:
        assert client.chat.completions.create(**asked).choices[0].message.content == answer_text(32)


def test_a_request_that_fails_the_engine_each_time_comes_to_an_end(
    client: openai.OpenAI, upstream: FakeUpstream
) -> None:
    upstream.control(fault="error_frame")
    before = upstream.stats()["started"]
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="fake", messages=HI)
    assert (failed.value.status_code, failed.value.code) == (502, "model_error")
    assert upstream.stats()["started"] - before == 3


def test_one_beginning_many_times_at_once_goes_to_several_replicas(
    gateway: GatewayProcess, control: FakeControl, upstream: FakeUpstream
) -> None:
    control.set_model("fake", upstream.base_url, max_in_flight=16, replicas=2)
    control.wait_seen()
    upstream.control(tokens=2, first_token_s=1)
    with ThreadPoolExecutor(6) as callers:
        answers = [callers.submit(raw_stream, gateway) for _ in range(6)]
        assert {answer.result()[0] for answer in answers} == {200}
    names = Counter(asked["headers"]["x-session-id"] for asked in upstream.requests()[-6:])
    assert sorted(names.values()) == [2, 2, 2]
    raw_stream(gateway)
    assert upstream.requests()[-1]["headers"]["x-session-id"] == min(names, key=len)


def test_lines_may_end_as_the_server_likes(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    upstream.control(line_end="\r\n")
    status, text = raw_stream(gateway, stream_options={"include_usage": True})
    assert status == 200
    *frames, last = data(text)
    assert content(frames) == answer_text(32)
    assert last["usage"]["completion_tokens"] == 33
    assert text.endswith("data: [DONE]\n\n")


def test_a_caller_that_reads_nothing_loses_its_place(control: FakeControl, upstream: FakeUpstream) -> None:
    upstream.control(tokens=1_000_000)
    with GatewayProcess(control.url, AIIA_GATEWAY_STALL_S="0.5") as gateway, socket.socket() as caller:
        address = urlsplit(gateway.base_url)
        control.forget_usage()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect((address.hostname, address.port))
        body = json.dumps({"model": "fake", "messages": HI, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        caller.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        (record,) = control.wait_usage(lambda records: len(records) == 1, timeout=60)
    assert record["outcome"] == "cancelled"
    assert record["completion_tokens"] > 0


def test_a_plain_answer_survives_a_death_in_the_middle(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    upstream.control(fault="die", fault_after=5, fault_times=1)
    assert client.chat.completions.create(model="fake", messages=HI).choices[0].message.content == answer_text(32)


@pytest.mark.parametrize("fault", ["die", "no_done", "error_frame"])
def test_a_stream_that_breaks_off_ends_with_an_error_and_no_end_mark(
    gateway: GatewayProcess, upstream: FakeUpstream, fault: str
) -> None:
    # At this pace the first tokens are through before the connection breaks, which throws away what is on its way.
    upstream.control(fault=fault, fault_after=5, fault_times=1, tokens_per_second=50)
    # With a seed it cannot go on: the sequence of random numbers would begin again.
    status, text = raw_stream(gateway, seed=1)
    assert status == 200
    *frames, last = data(text)
    assert content(frames) == answer_text(5)
    assert "error" in last
    assert "[DONE]" not in text


def test_a_model_that_stays_away_is_an_honest_error(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    upstream.control(fault="refuse", fault_times=-1)
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="fake", messages=HI)
    assert failed.value.status_code == 503
    assert failed.value.code == "upstream_lost"


def test_tokens_are_counted_by_the_model(gateway: GatewayProcess, control: FakeControl, upstream: FakeUpstream) -> None:
    question = {"model": "fake", "messages": [{"role": "user", "content": "one two three"}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{gateway.base_url}/tokenize"
    refusal = httpx.post(url, json=question, headers=headers)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (404, "no_tokenizer")
    control.set_model("fake", upstream.base_url, engine="vllm")
    control.wait_seen()
    # A start, the role and three words.
    assert httpx.post(url, json=question, headers=headers).json() == {"count": 5}
    assert httpx.post(url, json=question).status_code == 401
    control.set_model("fake", upstream.base_url, engine="vllm", state="starting")
    control.wait_seen()
    assert httpx.post(url, json=question, headers=headers).status_code == 503


def test_a_model_that_never_answers_is_said_to_be_silent(control: FakeControl, upstream: FakeUpstream) -> None:
    upstream.control(fault="hang")
    with GatewayProcess(control.url, AIIA_GATEWAY_STALL_S="1") as impatient:
        answer = httpx.post(
            f"{impatient.base_url}/chat/completions",
            json={"model": "fake", "messages": HI},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=30,
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "stream_stalled")
