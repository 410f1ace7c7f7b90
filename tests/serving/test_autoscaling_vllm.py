"""From nothing to two replicas and back with the real engine, through the real gateway and its queue."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import yaml

from tests.fakes import ROOT
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.support.cluster import Cluster
from tests.support.services import RedisServer

pytestmark = [pytest.mark.serving, pytest.mark.timeout(900)]

MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("autoscaling"))
    document = yaml.safe_load((ROOT / "models" / f"{MODEL}.yaml").read_text())
    document["spec"]["scaling"] |= {
        "minReplicas": 0,
        "maxReplicas": 2,
        "maxInFlight": 1,
        "targetWaitS": 1,
        "scaleDownAfterS": 3,
        "scaleToZeroAfterS": 5,
    }
    (cluster.manager.packaged / f"{MODEL}.yaml").write_text(yaml.safe_dump(document))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, redis_server: RedisServer) -> Iterator[GatewayProcess]:
    settings = {"REDIS_URL": redis_server.url}
    with FakeControl() as control, GatewayProcess(control.url, cluster.manager.url, **settings) as gateway:
        cluster.start_head(gateway.base_url)
        yield gateway


def test_replicas_follow_the_queue_from_none_to_two_and_back(cluster: Cluster, gateway: GatewayProcess) -> None:
    # With no files in the cache yet, they are made first.
    cluster.manager.wait_state(MODEL, "cold", 300)
    client = openai.OpenAI(base_url=gateway.base_url, api_key=INTERNAL_TOKEN, max_retries=0, timeout=400)
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    answer = client.chat.completions.create(model=MODEL, messages=question)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert cluster.manager.wait_state(MODEL, "ready")["replicas"] == 1

    long: Any = {"model": MODEL, "messages": question, "extra_body": {"ignore_eos": True}}
    enough = threading.Event()

    def ask_on() -> None:
        while not enough.is_set():
            assert client.chat.completions.create(**long, max_tokens=50).choices[0].finish_reason == "length"

    with ThreadPoolExecutor(6) as callers:
        asking = [callers.submit(ask_on) for _ in range(6)]
        try:
            assert cluster.wait_replicas(MODEL, 2, 240)["max_in_flight"] == 2
        finally:
            enough.set()
        for asked in asking:
            asked.result()

    # One goes while an answer is being written, by whichever of the two.
    stream = client.chat.completions.create(**long, max_tokens=400, stream=True)
    pieces = [next(stream)]
    assert cluster.wait_replicas(MODEL, 1)["state"] == "ready"
    pieces += stream
    assert pieces[-1].choices[0].finish_reason == "length"

    assert cluster.manager.wait_state(MODEL, "cold", 120)["reason"] == "Starts with the first request"
    assert cluster.wait_replicas(MODEL, 0)["starts_on_demand"]
