"""The gateway as a real process between a fake model and a stand-in for manager and platform."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.fakes import FakeUpstream
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess

KEY = "sk-test-of-alice"


@pytest.fixture(scope="module")
def control() -> Iterator[FakeControl]:
    """One for each gateway that a file has as its own: what one gateway has seen another may not have."""
    with FakeControl() as control:
        control.add_key(KEY, "alice")
        yield control


@pytest.fixture(scope="module")
def gateway(control: FakeControl) -> Iterator[GatewayProcess]:
    limits: dict[str, Any] = {
        "AIIA_GATEWAY_RETRY_S": "3",
        "AIIA_GATEWAY_HOLD_S": "20",
        "AIIA_GATEWAY_MAX_BODY": "100000",
    }
    with GatewayProcess(control.url, AIIA_GATEWAY_MAX_WAITING="4", **limits) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def _upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(_upstream: FakeUpstream, control: FakeControl, gateway: GatewayProcess) -> FakeUpstream:
    """The fake model, well behaved and ready under the id ``fake``."""
    _upstream.control(
        models=["fake"],
        tokens=32,
        tokens_per_second=0,
        first_token_s=0,
        reasoning_tokens=0,
        calls=0,
        fault="none",
        fault_times=-1,
        line_end="\n",
    )
    control.set_model("fake", _upstream.base_url)
    control.wait_seen()
    return _upstream


@pytest.fixture
def client(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=0)
