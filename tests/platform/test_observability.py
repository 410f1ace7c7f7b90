"""What can be seen from outside of a question on its way from the page to the model, and what must not be seen."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from aiia_platform.accounts.models import User
from aiia_platform.generations.models import Generation
from tests.fakes.collector import Collector
from tests.fakes.gateway import free_port
from tests.support.services import RedisServer
from tests.support.stack import MODEL, Stack

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

#: What nobody but the model may read.
SECRET = "xyzzy-plugh-plover"

Send = Callable[..., Generation]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield collector


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIIA_LOG_LEVEL", "DEBUG")


@pytest.fixture
def stack(transactional_db: None, redis_server: RedisServer) -> Iterator[Stack]:
    with Stack(redis_server, tokens=16) as stack:
        yield stack


def ask(site: str, user: User, text: str) -> tuple[httpx.Response, Generation]:
    """Sends a message as the page does, and returns the answer to that and the generation, ended."""
    browser = Client()
    browser.force_login(user)
    cookies = {"sessionid": browser.cookies["sessionid"].value, "csrftoken": "c" * 32}
    form = {"text": text, "model": MODEL, "message_id": str(uuid.uuid4()), "csrfmiddlewaretoken": "c" * 32}
    sent = httpx.post(f"{site}/chats/{uuid.uuid4()}/messages/", data=form, cookies=cookies, timeout=30)
    assert sent.status_code == 302, sent.text
    return sent, ended(Generation.objects.get(message__parent__id=form["message_id"]))


def ended(generation: Generation, within: float = 60) -> Generation:
    deadline = time.monotonic() + within
    while (row := Generation.objects.get(pk=generation.pk)).is_active:
        assert time.monotonic() < deadline, row.status
        time.sleep(0.05)
    return row


def samples(url: str) -> dict[tuple[str, str], float]:
    """Values by name and each label; the label is empty for those without."""
    families = text_string_to_metric_families(httpx.get(url, timeout=30).text)
    every = [sample for family in families for sample in family.samples]
    return {(sample.name, label): sample.value for sample in every for label in sample.labels.values() or [""]}


def test_one_trace_from_the_page_to_the_model(collector: Collector, stack: Stack, user: User) -> None:
    stack.start_worker()
    sent, _ = ask(stack.start_web(), user, SECRET)
    wanted = {
        "POST chat-send": "aiia-web",
        "write an answer": "aiia-worker",
        "POST /v1/chat/completions": "aiia-gateway",
        "wait for a turn": "aiia-gateway",
        "ask the model": "aiia-gateway",
    }
    spans = {span.name: span for span in collector.wait(lambda spans: wanted.keys() <= {span.name for span in spans})}
    assert {name: spans[name].service for name in wanted} == wanted
    assert {spans[name].trace for name in wanted} == {spans["POST chat-send"].trace}
    assert spans["POST chat-send"].parent == ""
    assert spans["write an answer"].parent == spans["POST chat-send"].id
    assert spans["POST /v1/chat/completions"].parent == spans["write an answer"].id
    assert spans["ask the model"].parent == spans["POST /v1/chat/completions"].id
    assert not any(spans[name].failed for name in wanted)

    headers = stack.upstream.requests()[-1]["headers"]
    _, trace, parent, _ = headers["traceparent"].split("-")
    assert (trace, parent) == (spans["ask the model"].trace, spans["ask the model"].id)
    assert headers["x-request-id"] == sent.headers["x-request-id"]
    assert SECRET.encode() not in b"".join(collector.raw)


@pytest.mark.usefixtures("talkative")
def test_no_log_holds_a_prompt(stack: Stack, user: User) -> None:
    stack.start_worker()
    site = stack.start_web()
    sent, generation = ask(site, user, SECRET)
    assert generation.state == "done"
    # A model that repeats the question in its refusal, at once and in the middle of an answer.
    stack.upstream.control(fault="status", fault_status=400, fault_quotes=True)
    _, generation = ask(site, user, SECRET)
    assert SECRET in generation.error, "the user is told what the model said"
    stack.upstream.control(fault="status", fault_status=500)
    assert ask(site, user, SECRET)[1].state == "failed"
    stack.upstream.control(fault="error_frame", fault_after=3)
    ask(site, user, SECRET)

    url = f"{stack.gateway.base_url}/chat/completions"
    internal = {"Authorization": "Bearer internal-token-of-the-tests"}
    for body in (f'{{"model": "{SECRET}', json.dumps({"model": MODEL, "messages": SECRET, SECRET: 1})):
        assert httpx.post(url, content=body, headers=internal).status_code == 400

    log = stack.log.read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert not [line for line in log.splitlines() if SECRET in line]
    assert {"debug"} <= {line["level"] for line in lines}, "the test listens to everything"
    # One id leads through the logs of all roles.
    loggers = {line["logger"] for line in lines if line.get("request_id") == sent.headers["x-request-id"]}
    assert {
        "aiia_platform.observability.middleware",
        "aiia_platform.generations.runner",
        "aiia_serving.gateway",
    } <= loggers


def test_worker_and_pages_are_counted(stack: Stack, user: User) -> None:
    port = free_port()
    stack.start_worker(AIIA_METRICS_PORT=str(port))
    site = stack.start_web(AIIA_GATEWAY_APP="aiia_serving.gateway.app:app")
    ask(site, user, "Hello")
    assert httpx.post(f"{site}/v1/chat/completions", timeout=30).status_code == 401
    worker = samples(f"http://127.0.0.1:{port}/metrics")
    assert worker["aiia_worker_generations_total", MODEL] == 1
    assert worker["aiia_worker_first_token_seconds_count", MODEL] == 1
    assert worker["aiia_worker_generations_running", ""] == 0
    assert worker["aiia_generations_active", "queued"] == 0
    assert [value for (name, _), value in worker.items() if name == "aiia_worker_heartbeat_age_seconds"]
    web = samples(f"{site}/metrics")
    assert web["aiia_web_requests_total", "chat-send"] == 1
    assert web["aiia_web_request_seconds_count", "chat-send"] == 1
    assert web["aiia_gateway_errors_total", "invalid_api_key"] == 1, "the mounted gateway is on the same page"


def test_strangers_see_no_metrics(client: Client) -> None:
    def status(**headers: Any) -> int:
        return client.get("/metrics", headers=headers, REMOTE_ADDR="192.0.2.1").status_code

    assert status() == 404
    assert status(authorization="Bearer internal-token-of-the-tests") == 200
    assert client.get("/metrics").status_code == 200
