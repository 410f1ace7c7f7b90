"""The decision about replicas, as properties; and where its numbers come from."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiia_serving.autoscaling.decision import Demand, Rules, Scaler, wanted
from aiia_serving.autoscaling.demand import Demands
from tests.fakes.control import INTERNAL_TOKEN

pytestmark = pytest.mark.unit

RULES = Rules(0, 8, window=4, target_wait_s=10, scale_down_after_s=60, scale_to_zero_after_s=600)

rules = st.builds(
    lambda least, more, window, target, down, zero: Rules(least, max(1, least + more), window, target, down, zero),
    st.integers(0, 4),
    st.integers(0, 8),
    st.integers(1, 64),
    st.floats(0.1, 100),
    st.floats(0, 600),
    st.floats(0, 2000),
)
demands = st.builds(
    Demand, st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.none() | st.floats(0, 100_000)
)
ticks = st.lists(st.tuples(demands, st.floats(0, 1000)), max_size=40)


def after(scaler: Scaler, demand: Demand, current: int, seconds: int, start: int = 0) -> int:
    """The decision after that demand has lasted so long, asked once a second."""
    for second in range(start, start + seconds + 1):
        current = scaler.decide(demand, current, RULES, second)
    return current


@given(rules, ticks)
def test_bounds_hold_and_going_down_is_never_to_zero_from_more_than_one(
    rules: Rules, ticks: list[tuple[Demand, float]]
) -> None:
    scaler, current, now = Scaler(), rules.min_replicas, 0.0
    for demand, seconds in ticks:
        now += seconds
        before, current = current, scaler.decide(demand, current, rules, now)
        assert rules.min_replicas <= current <= rules.max_replicas
        assert current > 0 or before <= 1


@given(rules, ticks)
def test_nothing_is_taken_from_under_a_live_stream(rules: Rules, ticks: list[tuple[Demand, float]]) -> None:
    scaler, current, now = Scaler(), rules.min_replicas, 0.0
    for demand, seconds in ticks:
        now += seconds
        before, current = current, scaler.decide(demand, current, rules, now)
        if current < before:
            assert demand.waiting == 0
            assert current >= min(rules.max_replicas, -(-demand.running // rules.window))
        if current == 0:
            assert demand.idle or before == 0 == rules.max_replicas


@given(rules, demands, st.integers(0, 12))
def test_constant_demand_is_decided_once(rules: Rules, demand: Demand, current: int) -> None:
    """Whatever the start, the number settles, moving in one direction only."""
    scaler = Scaler()
    seen = [rules.clamp(current)]
    for tick in range(2000):
        decision = scaler.decide(demand, seen[-1], rules, tick * 10.0)
        if decision != seen[-1]:
            seen.append(decision)
    assert seen in (sorted(seen), sorted(seen, reverse=True))
    assert wanted(demand, seen[-1], rules) == seen[-1]


@given(rules, demands, demands, st.integers(0, 12))
def test_more_work_never_asks_for_fewer(rules: Rules, one: Demand, other: Demand, current: int) -> None:
    more = Demand(
        one.waiting + other.waiting,
        one.running + other.running,
        one.slots,
        None if one.work_s is None else one.work_s + (other.work_s or 0),
    )
    assert wanted(more, current, rules) >= wanted(one, current, rules)


def test_the_first_request_starts_a_cold_model_at_once() -> None:
    assert Scaler().decide(Demand(waiting=1), 0, RULES, now=0) == 1


def test_a_long_queue_goes_up_at_once_by_its_seconds_of_work() -> None:
    scaler = Scaler()
    assert scaler.decide(Demand(waiting=100, running=4, slots=4, work_s=9), 1, RULES, now=0) == 1
    assert scaler.decide(Demand(waiting=100, running=4, slots=4, work_s=35), 1, RULES, now=1) == 4
    # The three others are not there yet: the same work asks for no more.
    assert scaler.decide(Demand(waiting=100, running=4, slots=4, work_s=35), 4, RULES, now=2) == 4
    # More replicas than requests to fill them are of no use.
    assert scaler.decide(Demand(waiting=3, running=4, slots=4, work_s=900), 1, RULES, now=3) == 2


def test_going_down_takes_its_time_and_forgets_no_peak() -> None:
    scaler = Scaler()
    assert after(scaler, Demand(running=2, slots=16), 4, 30) == 4
    assert after(scaler, Demand(running=8, slots=16), 4, 30, start=31) == 3
    assert after(scaler, Demand(running=2, slots=12), 3, 58, start=62) == 3
    assert after(scaler, Demand(running=2, slots=12), 3, 62, start=121) == 1


def test_the_last_one_ends_when_nobody_has_come_for_long() -> None:
    scaler = Scaler()
    assert after(scaler, Demand(), 1, 599) == 1
    assert scaler.decide(Demand(running=1, slots=4), 1, RULES, 600) == 1
    assert after(scaler, Demand(), 1, 599, start=601) == 1
    assert scaler.decide(Demand(), 1, RULES, 1201) == 0


def test_the_gateway_is_asked_with_the_token_and_its_silence_is_not_zero() -> None:
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            load = {"waiting": 3, "running": 2, "slots": 4, "work_s": None}
            body = json.dumps({"models": {"m": load}, "requests": []}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)
            heard.set()

        def log_message(self, *_: object) -> None:
            pass

    heard = threading.Event()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    demands = Demands(f"http://127.0.0.1:{server.server_port}/v1", INTERNAL_TOKEN)
    assert demands.get("m") is None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert heard.wait(20)
    # The second question comes after the first answer has been taken in.
    heard.clear()
    demands.get("m")
    assert heard.wait(20)
    assert demands.get("m") == Demand(3, 2, 4, None)
    assert demands.get("other") == Demand()
    assert set(asked) == {f"Bearer {INTERNAL_TOKEN}"}
    server.shutdown()
    server.server_close()


def test_without_a_gateway_nothing_is_known() -> None:
    assert Demands(None, None).get("m") is None
