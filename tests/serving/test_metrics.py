"""What Prometheus reads from gateway and manager, and who may read it."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aiia_serving.metrics import OTHER, Few, may_read
from tests.fakes import FakeUpstream
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.serving.conftest import KEY
from tests.support.manager import ManagerProcess

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
    with GatewayProcess(control.url, AIIA_GATEWAY_RETRY_S="3", AIIA_METRICS_USERS="1") as gateway:
        yield gateway


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
