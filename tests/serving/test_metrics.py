"""What Prometheus reads from gateway and manager, and who may read it."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aiia_serving.metrics import OTHER, Few, may_read
from tests.fakes import FakeUpstream
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess, free_port
from tests.fakes.images import GPU_MS_PER_STEP
from tests.serving.conftest import KEY
from tests.support.manager import ManagerProcess
from tests.support.services import RedisServer

pytestmark = pytest.mark.integration


class Page:
    """One look at ``/metrics``."""

    def __init__(self, url: str) -> None:
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        return sum(
            sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in self._samples if sample.name == name}


@pytest.fixture
def counting(control: FakeControl, upstream: FakeUpstream) -> Iterator[GatewayProcess]:
    """A gateway whose counters start at zero."""
    with counter(control) as gateway:
        yield gateway


def counter(control: FakeControl) -> GatewayProcess:
    """Knows of the models that there are when it starts."""
    return GatewayProcess(control.url, AIIA_GATEWAY_RETRY_S="3", AIIA_METRICS_USERS="1")


def look(gateway: GatewayProcess) -> Page:
    return Page(gateway.base_url.removesuffix("/v1") + "/metrics")


def ask(gateway: GatewayProcess, key: str = KEY, model: str = "fake") -> None:
    client = openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0)
    list(
        client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )


def one(gateway: GatewayProcess, key: str, work_class: str = "api") -> None:
    """A short answer, for alice."""
    client = openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0)
    headers = {"X-Aiia-User": "alice", "X-Aiia-Class": work_class}
    hello: Any = [{"role": "user", "content": "Hello"}]
    client.chat.completions.create(model="fake", messages=hello, max_tokens=33, extra_headers=headers)


@contextmanager
def streaming(gateway: GatewayProcess) -> Iterator[None]:
    """While an answer is written to alice."""
    client = openai.OpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=0)
    hello: Any = [{"role": "user", "content": "Hello"}]
    with client.chat.completions.create(model="fake", messages=hello, stream=True) as stream:
        next(iter(stream))
        yield


CACHED = 40


@contextmanager
def engine() -> Iterator[str]:
    """A model's server with a cache, whose one answer is "Hi", and with metrics of its own; yields its address."""
    usage = {
        "prompt_tokens": CACHED + 2,
        "completion_tokens": 1,
        "total_tokens": CACHED + 3,
        "prompt_tokens_details": {"cached_tokens": CACHED},
    }
    frames = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    ]
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "caching"}
    answer = "".join(f"data: {json.dumps(common | frame)}\n\n" for frame in frames) + "data: [DONE]\n\n"

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer("text/event-stream", answer)

        def do_GET(self) -> None:
            self._answer("text/plain; version=0.0.4", f'path_that_was_asked_for{{path="{self.path}"}} 1\n')

        def _answer(self, kind: str, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/it"
    server.shutdown()
    server.server_close()


def test_requests_are_counted(counting: GatewayProcess, upstream: FakeUpstream) -> None:
    ask(counting)
    ask(counting)
    page = look(counting)
    asked = {"model": "fake", "class": "api"}
    assert page.value("aiia_gateway_requests_total", kind="chat", outcome="complete", status="200", **asked) == 2
    assert page.value("aiia_gateway_queue_wait_seconds_count", **asked) == 2
    assert page.value("aiia_gateway_first_token_seconds_count", **asked) == 2
    assert page.value("aiia_gateway_request_seconds_count", **asked) == 2
    assert page.value("aiia_gateway_output_tokens_per_second_count", model="fake") == 2
    assert page.value("aiia_gateway_completion_tokens_total", model="fake", user="alice") == 2 * 33
    assert page.value("aiia_gateway_prompt_tokens_total", model="fake", user="alice") > 0
    assert page.value("aiia_gateway_key_checks_total", result="miss") == 1
    assert page.value("aiia_gateway_key_checks_total", result="hit") == 1


def test_errors_are_counted_by_cause(counting: GatewayProcess, upstream: FakeUpstream) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(counting, model="a typo")
    with pytest.raises(openai.AuthenticationError):
        ask(counting, key="sk-unknown")
    page = look(counting)
    assert page.value("aiia_gateway_errors_total", code="model_not_found") == 1
    assert page.value("aiia_gateway_errors_total", code="invalid_api_key") == 1
    assert page.value("aiia_gateway_requests_total", outcome="failed", status="404") == 1
    assert page.labels("aiia_gateway_requests_total", "model") == {""}, "a typo makes no label"


def test_broken_streams_are_counted(counting: GatewayProcess, upstream: FakeUpstream) -> None:
    upstream.control(fault="die", fault_after=5, fault_times=1)
    ask(counting)
    page = look(counting)
    assert page.value("aiia_gateway_continued_answers_total", model="fake") == 1
    assert page.value("aiia_gateway_upstream_retries_total", model="fake") == 1
    assert page.value("aiia_gateway_requests_total", outcome="complete") == 1


def test_queues_are_shown_as_they_are(counting: GatewayProcess, upstream: FakeUpstream, control: FakeControl) -> None:
    control.set_model("fake", upstream.base_url, max_in_flight=7)
    upstream.control(tokens=100_000, tokens_per_second=50)
    client = openai.OpenAI(base_url=counting.base_url, api_key=KEY, max_retries=0)
    with client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "Hello"}], stream=True
    ) as stream:
        next(iter(stream))
        page = look(counting)
        assert page.value("aiia_queue_running", model="fake") == 1
        assert page.value("aiia_queue_slots", model="fake") == 7
    upstream.wait_running(0)


def test_what_a_model_found_in_its_cache_is_counted(control: FakeControl) -> None:
    with engine() as url:
        control.set_model("caching", f"{url}/v1")
        with counter(control) as gateway:
            ask(gateway, model="caching")
            ask(gateway, model="caching")
            page = look(gateway)
    assert page.value("aiia_gateway_cached_prompt_tokens_total", model="caching") == 2 * CACHED
    assert page.value("aiia_gateway_prompt_tokens_total", model="caching", user="alice") == 2 * (CACHED + 2)


def test_images_are_counted_by_steps_and_time(upstream: FakeUpstream, control: FakeControl) -> None:
    control.set_model("painter", upstream.base_url, task="image", engine="diffusers", capabilities=["images"])
    with counter(control) as gateway:
        client = openai.OpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=0)
        client.images.generate(model="painter", prompt="a", n=2, size="64x64", extra_body={"steps": 3})
        client.images.generate(model="painter", prompt="a", size="64x64", extra_body={"steps": 5})
        ask(gateway)
        page = look(gateway)
    drawn = {"model": "painter", "user": "alice"}
    assert page.value("aiia_gateway_image_steps_total", **drawn) == 2 * 3 + 5
    assert page.value("aiia_gateway_gpu_seconds_total", **drawn) == pytest.approx(11 * GPU_MS_PER_STEP / 1000)
    assert page.value("aiia_gateway_requests_total", model="painter", kind="images", outcome="complete") == 2
    assert page.labels("aiia_gateway_gpu_seconds_total", "model") == {"painter"}, "text is not counted in it"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """One that remembers nothing of the speed of models."""
    with RedisServer(free_port()) as server:
        yield server


@pytest.mark.parametrize("shared", [True, False])
def test_what_waits_is_shown_with_its_age_and_its_work(
    upstream: FakeUpstream, control: FakeControl, redis: RedisServer, shared: bool
) -> None:
    control.set_model("fake", upstream.base_url, max_in_flight=1)
    upstream.control(tokens_per_second=64)
    waiting = {"api": KEY, "batch": INTERNAL_TOKEN}
    with GatewayProcess(control.url, REDIS_URL=redis.url if shared else "") as gateway:
        began = time.monotonic()
        one(gateway, KEY)
        took = time.monotonic() - began
        upstream.control(tokens=100_000, tokens_per_second=50)
        with ThreadPoolExecutor() as threads, streaming(gateway):
            began = time.monotonic()
            asked = [threads.submit(one, gateway, key, work_class) for work_class, key in waiting.items()]
            while (page := look(gateway)).value("aiia_queue_waiting", model="fake") < 2:
                assert time.monotonic() - began < 30
            later = look(gateway)
            for work_class in waiting:
                of_it = {"model": "fake", "class": work_class}
                assert page.value("aiia_queue_waiting", **of_it) == 1
                oldest = page.value("aiia_queue_oldest_wait_seconds", **of_it)
                assert 0 <= oldest < later.value("aiia_queue_oldest_wait_seconds", **of_it) < time.monotonic() - began
            # Two like the first, which took half a second at least.
            assert 0.9 < page.value("aiia_queue_work_seconds", model="fake") < 2.1 * took
            upstream.control(tokens=32, tokens_per_second=0)
        for request in asked:
            request.result()
        page = look(gateway)
        assert (
            page.value("aiia_queue_waiting", model="fake") == page.value("aiia_queue_work_seconds", model="fake") == 0
        )


def test_further_users_are_counted_together(
    counting: GatewayProcess, upstream: FakeUpstream, control: FakeControl
) -> None:
    control.add_key("sk-test-of-bob", "bob")
    ask(counting)
    ask(counting, key="sk-test-of-bob")
    assert look(counting).labels("aiia_gateway_completion_tokens_total", "user") == {"alice", OTHER}


def test_a_proxy_does_not_open_the_page(counting: GatewayProcess, upstream: FakeUpstream) -> None:
    url = counting.base_url.removesuffix("/v1") + "/metrics"
    forwarded = {"X-Forwarded-For": "192.0.2.1"}
    assert httpx.get(url, headers=forwarded).status_code == 404
    assert httpx.get(url, headers=forwarded | {"Authorization": f"Bearer {INTERNAL_TOKEN}"}).status_code == 200


def test_manager_shows_states(tmp_path: Path) -> None:
    manager = ManagerProcess(tmp_path, AIIA_NO_MODELS="1")
    try:
        (manager.documents / "remote.yaml").write_text(
            "apiVersion: aiia.dev/v1\nkind: Model\nmetadata: {name: remote}\n"
            "spec: {task: chat, engine: openai, source: {url: http://127.0.0.1:9/v1}}\n"
        )
        manager.wait_state("remote", "failed")
        page = Page(f"{manager.url}/metrics")
        assert page.value("aiia_model_state", model="remote", state="failed") == 1
        assert page.value("aiia_model_state", model="remote") == 1, "one state at a time"
        assert page.value("aiia_model_transitions_total", model="remote", state="failed") == 1
        assert page.value("process_resident_memory_bytes") > 0
    finally:
        manager.stop()


def test_one_address_for_all(tmp_path: Path, control: FakeControl) -> None:
    manager = ManagerProcess(tmp_path, AIIA_NO_MODELS="1")
    try:
        with GatewayProcess(control.url, manager_url=manager.url) as gateway:
            url = gateway.base_url.removesuffix("/v1") + "/metrics/manager"
            assert "aiia_model_state" in httpx.get(url, timeout=30).text
            assert httpx.get(url, headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 404
    finally:
        manager.stop()


def test_an_engines_own_metrics_are_passed_on(control: FakeControl) -> None:
    local, proxied = ("vllm", "embedding", "rerank", "diffusers"), {"X-Forwarded-For": "192.0.2.1"}
    with engine() as url:
        for kind in (*local, "openai"):
            control.set_model(f"of-{kind}", f"{url}/v1", engine=kind)
        with counter(control) as gateway:
            pages = gateway.base_url.removesuffix("/v1") + "/metrics/models"
            for kind in local:
                assert Page(f"{pages}/of-{kind}").labels("path_that_was_asked_for", "path") == {"/it/metrics"}
                assert httpx.get(f"{pages}/of-{kind}", headers=proxied).status_code == 404
            remote = httpx.get(f"{pages}/of-openai")
            assert (remote.status_code, remote.json()["error"]["code"]) == (404, "no_metrics")


def test_few_values() -> None:
    few = Few(2)
    assert [few(value) for value in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]
    assert Few(0)("a") == OTHER


@pytest.mark.parametrize(
    ("peer", "headers", "allowed"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("192.0.2.1", {}, False),
        (None, {}, False),
        ("127.0.0.1", {"x-forwarded-for": "192.0.2.1"}, False),
        ("192.0.2.1", {"authorization": "Bearer secret"}, True),
        ("192.0.2.1", {"authorization": "Bearer wrong"}, False),
    ],
)
def test_who_may_read(peer: str | None, headers: dict[str, str], allowed: bool) -> None:
    assert may_read(peer, headers, "secret") is allowed
