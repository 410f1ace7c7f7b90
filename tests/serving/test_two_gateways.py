"""Two gateways on one Redis behave as one."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest

from tests.fakes import FakeUpstream
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess, free_port
from tests.support.services import RedisServer

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(free_port()) as server:
        yield server


@pytest.fixture
def slow(control: FakeControl, upstream: FakeUpstream) -> FakeUpstream:
    """A model with one slot, whose answers take their time."""
    upstream.control(tokens=100_000, tokens_per_second=50)
    control.set_model("fake", upstream.base_url, max_in_flight=1)
    return upstream


@pytest.fixture
def pair(control: FakeControl, redis: RedisServer, slow: FakeUpstream) -> Iterator[list[GatewayProcess]]:
    # They start when the model has its one slot, so that neither knows of more.
    with ExitStack() as stack:
        gateways = [stack.enter_context(GatewayProcess(control.url, REDIS_URL=redis.url)) for _ in range(2)]
        yield gateways
        # At a stop that is asked for they would wait for the streams that the tests have left running.
        for gateway in gateways:
            gateway.kill()


class Request:
    """A streamed request of another role, read by a thread; ``events`` are its status events and frames so far."""

    def __init__(self, gateway: GatewayProcess, user: str, work_class: str = "interactive", **headers: str) -> None:
        self.events: list[Any] = []
        self._changed = threading.Condition()
        self._client = httpx.Client(timeout=60)
        self._url = f"{gateway.base_url}/chat/completions"
        self._headers = {
            "Authorization": f"Bearer {INTERNAL_TOKEN}",
            "X-Aiia-User": user,
            "X-Aiia-Class": work_class,
            "X-Aiia-Events": "1",
            **headers,
        }
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        with (
            # The gateway that is killed.
            suppress(httpx.HTTPError),
            self._client.stream("POST", self._url, json=body, headers=self._headers) as answer,
        ):
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    with self._changed:
                        self.events.append(line if line == "data: [DONE]" else json.loads(line[6:]))
                        self._changed.notify_all()

    def wait(self, wanted: Any) -> Any:
        """The first event that is as ``wanted``."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [event for event in self.events if wanted(event)]
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(look, 30), self.events
        return found[0]


def queued_at(position: int) -> Any:
    return lambda event: isinstance(event, dict) and event.get("phase") == "queued" and event["position"] == position


def running(event: Any) -> bool:
    return isinstance(event, dict) and event.get("phase") == "running"


def done(event: Any) -> bool:
    return bool(event == "data: [DONE]")


def queue_of(gateway: GatewayProcess) -> Any:
    headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}"}
    return httpx.get(f"{gateway.base_url}/queue", headers=headers).raise_for_status().json()


def test_they_share_the_slots_and_the_line(pair: list[GatewayProcess], slow: FakeUpstream) -> None:
    left, right = pair
    first = Request(left, "ann")
    first.wait(running)
    # The express share lets a user with nothing in flight in beside one that has; the second of a user waits.
    second = Request(right, "ann")
    second.wait(queued_at(1))
    third = Request(left, "ann")
    third.wait(queued_at(2))
    seen = [queue_of(gateway)["models"]["fake"] for gateway in pair]
    for load in seen:
        assert (load["running"], load["waiting"], load["slots"]) == (1, 2, 1)
    assert slow.stats()["running"] == 1


def test_the_death_of_one_frees_its_slots_for_the_other(pair: list[GatewayProcess], slow: FakeUpstream) -> None:
    left, right = pair
    doomed = Request(left, "bob")
    doomed.wait(running)
    waiting = Request(right, "bob")
    waiting.wait(queued_at(1))
    left.kill()
    waiting.wait(running)
    assert queue_of(right)["models"]["fake"]["running"] == 1


def test_a_deadline_ends_the_wait_with_429(pair: list[GatewayProcess], slow: FakeUpstream) -> None:
    left, right = pair
    Request(left, "cid").wait(running)
    late = Request(right, "cid", **{"X-Aiia-Deadline": "1"})
    refusal = late.wait(lambda event: isinstance(event, dict) and "error" in event)
    assert (refusal["error"]["status"], refusal["error"]["code"]) == (429, "queue_timeout")
    assert queue_of(left)["models"]["fake"]["waiting"] == 0


def test_users_see_their_own_requests_only(
    control: FakeControl, pair: list[GatewayProcess], slow: FakeUpstream
) -> None:
    control.add_key("sk-of-dan", "dan")
    Request(pair[0], "dan").wait(running)
    Request(pair[1], "eve").wait(lambda event: isinstance(event, dict) and "phase" in event)
    own = httpx.get(f"{pair[1].base_url}/queue", headers={"Authorization": "Bearer sk-of-dan"}).json()
    assert len(own["requests"]) == 1
    assert "user" not in own["requests"][0]
    assert {request["user"] for request in queue_of(pair[0])["requests"]} >= {"dan"}


def test_a_restart_of_redis_loses_no_request(
    control: FakeControl, upstream: FakeUpstream, pair: list[GatewayProcess], redis: RedisServer
) -> None:
    upstream.control(tokens=150, tokens_per_second=50)
    control.set_model("fake", upstream.base_url, max_in_flight=2)
    requests = [Request(pair[number % 2], f"user{number % 3}") for number in range(6)]
    requests[0].wait(running)
    redis.kill()
    redis.start()
    for request in requests:
        request.wait(done)
    for gateway in pair:
        load = queue_of(gateway)["models"]["fake"]
        assert (load["running"], load["waiting"]) == (0, 0)
