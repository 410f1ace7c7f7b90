"""What runs on real Ray goes on while the files of a changed document are not here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.test_manager_ray import Cheap, Stream, document
from tests.support.demand import FakeQueues

pytestmark = [pytest.mark.serving, pytest.mark.timeout(600)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cheap]:
    with FakeQueues() as queues:
        cluster = Cheap(tmp_path, queues)
        yield cluster
        cluster.stop()


def test_a_ready_model_stays_ready_until_its_new_files_are_here(cluster: Cheap) -> None:
    cluster.put("steady")
    cluster.manager.wait_state("steady", "ready", 120)
    before = cluster.manager.request("GET", "/events").json()["last"]
    pid = Stream(cluster.url("steady", 0.1)).pid
    changed = document("steady")
    changed["spec"]["source"] = {"package": "no-such-package"}
    assert cluster.manager.request("PUT", "/models/steady", json=changed).status_code == 204
    steady = cluster.manager.wait(lambda models: "no-such-package" in (models["steady"]["reason"] or ""))["steady"]
    assert (steady["state"], steady["replicas"]) == ("ready", 1)
    assert Stream(cluster.url("steady", 0.1)).pid == pid
    cluster.put("steady")
    cluster.manager.wait(lambda models: models["steady"]["reason"] is None)
    assert Stream(cluster.url("steady", 0.1)).pid == pid
    events = cluster.manager.request("GET", "/events", params={"after": before}).json()["events"]
    assert [event for event in events if event["model"] == "steady"] == []
