"""Gateways, replicas, Redis, proxy and manager are killed at random under mixed load."""

import random

import pytest

from loadtests.chaos import Run, fake_chaos, real_chaos

KINDS = {"gateway", "replica", "redis", "proxy", "manager"}


@pytest.fixture
def dice() -> random.Random:
    seed = random.randrange(10_000)
    print(f"seed {seed}")
    return random.Random(seed)


def assert_honest(run: Run) -> None:
    print(run.summary())
    assert run.wrong == []
    assert any(result.ended == "complete" for result in run.results)
    assert {outage.kind for outage in run.outages} == KINDS


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_every_request_ends_and_nothing_is_left_behind(dice: random.Random) -> None:
    assert_honest(fake_chaos(40, dice, pause_s=0.7))


@pytest.mark.serving
@pytest.mark.timeout(900)
def test_the_same_with_real_models(dice: random.Random) -> None:
    assert_honest(real_chaos(len(KINDS), dice))
