"""What all protocols have in common: ids of requests, bodies that are no good, fields and routes that are not known."""

import json
from typing import Any

import httpx
import pytest

from tests.fakes import FakeUpstream
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.serving.conftest import KEY

pytestmark = pytest.mark.integration

HI: Any = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"model": "fake", "messages": HI},
    "/completions": {"model": "fake", "prompt": "hi"},
    "/embeddings": {"model": "fake", "input": "hi"},
    "/rerank": {"model": "fake", "query": "hi", "documents": ["hi"]},
    "/responses": {"model": "fake", "input": "hi"},
    "/messages": {"model": "fake", "messages": HI, "max_tokens": 5},
}


def post(gateway: GatewayProcess, path: str, body: Any, token: str = KEY, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        gateway.base_url + path, content=content, headers={"Authorization": f"Bearer {token}", **headers}, timeout=30
    )


@pytest.mark.parametrize("path", BODIES)
def test_request_ids(gateway: GatewayProcess, upstream: FakeUpstream, path: str) -> None:
    ours = post(gateway, path, BODIES[path], INTERNAL_TOKEN, **{"X-Request-Id": "ours-1"})
    assert ours.status_code == 200, ours.text
    assert ours.headers["x-request-id"] == "ours-1"
    assert upstream.requests()[-1]["headers"]["x-request-id"] == "ours-1"
    # A user does not choose it.
    theirs = post(gateway, path, BODIES[path], **{"X-Request-Id": "theirs-1"})
    assert theirs.headers["x-request-id"] not in ("", "theirs-1")
    assert upstream.requests()[-1]["headers"]["x-request-id"] == theirs.headers["x-request-id"]


@pytest.mark.parametrize("path", BODIES)
def test_bodies_that_are_no_good(gateway: GatewayProcess, upstream: FakeUpstream, path: str) -> None:
    deep = json.dumps(BODIES[path])[:-1].encode() + b', "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    halves = json.dumps(BODIES[path]).replace("hi", "\\ud800").encode()
    for body in (b"", b"{", b"[]", b"null", b"\xff", deep, halves, b'{"model": NaN}'):
        answer = post(gateway, path, body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
    large = post(gateway, path, b" " * 100_001)
    assert large.status_code == 413


@pytest.mark.parametrize("path", BODIES)
def test_fields_that_are_not_known_are_named(gateway: GatewayProcess, upstream: FakeUpstream, path: str) -> None:
    answer = post(gateway, path, {**BODIES[path], "extra_args": {}})
    assert answer.status_code == 400
    assert "extra_args" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", BODIES)
def test_work_that_a_model_does_not_do(
    gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl, path: str
) -> None:
    control.set_model("fake", upstream.base_url, capabilities=["images"])
    control.wait_seen()
    answer = post(gateway, path, BODIES[path])
    assert answer.status_code == 400
    assert "images" in answer.json()["error"]["message"]


def test_an_unknown_url_lists_all_routes(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    message = post(gateway, "/nothing", {}).json()["error"]["message"]
    for path in BODIES:
        assert f"POST /v1{path}" in message


def test_models_say_what_they_can(gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl) -> None:
    control.set_model("fake", upstream.base_url, max_model_len=4096, capabilities=["chat", "tools"])
    control.wait_seen()
    model = httpx.get(f"{gateway.base_url}/models/fake", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert model["max_model_len"] == 4096
    assert model["aiia"]["capabilities"] == ["chat", "tools"]
