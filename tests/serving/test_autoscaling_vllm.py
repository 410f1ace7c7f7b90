"""From nothing to one replica and back with the real engine, through the real gateway and its queue."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import yaml

from tests.fakes import ROOT
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.serving, pytest.mark.timeout(900)]

MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("autoscaling"))
    document = yaml.safe_load((ROOT / "models" / f"{MODEL}.yaml").read_text())
    document["spec"]["scaling"] |= {"minReplicas": 0, "scaleToZeroAfterS": 5}
    (cluster.manager.packaged / f"{MODEL}.yaml").write_text(yaml.safe_dump(document))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[GatewayProcess]:
    with FakeControl() as control, GatewayProcess(control.url, cluster.manager.url) as gateway:
        cluster.start_head(gateway.base_url)
        yield gateway


def test_the_first_request_starts_a_cold_model_and_it_goes_again(cluster: Cluster, gateway: GatewayProcess) -> None:
    # With no files in the cache yet, they are made first.
    cluster.manager.wait_state(MODEL, "cold", 300)
    client = openai.OpenAI(base_url=gateway.base_url, api_key=INTERNAL_TOKEN, max_retries=0, timeout=400)
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    for _ in range(2):
        answer = client.chat.completions.create(model=MODEL, messages=question)
        assert "Paris" in (answer.choices[0].message.content or "")
        assert cluster.manager.wait_state(MODEL, "ready")["replicas"] == 1
        assert cluster.manager.wait_state(MODEL, "cold", 120)["reason"] == "Starts with the first request"
    events = cluster.manager.request("GET", "/events").json()["events"]
    states = [event["state"] for event in events if event["model"] == MODEL]
    assert states[-6:] == ["starting", "ready", "cold", "starting", "ready", "cold"]
