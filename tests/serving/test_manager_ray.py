"""Manager, policy and Serve on real Ray, with an engine that costs nothing and a gateway that says what we want."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import cheap
from tests.support.cluster import Cluster
from tests.support.demand import FakeQueues

pytestmark = [pytest.mark.serving, pytest.mark.timeout(600)]


def document(name: str, *, sleep: bool = False, **scaling: Any) -> dict[str, Any]:
    quick = {"maxInFlight": 2, "targetWaitS": 10, "scaleDownAfterS": 2, "scaleToZeroAfterS": 4}
    spec: dict[str, Any] = {"task": "chat", "engine": "vllm", "source": {"path": "/"}, "scaling": {**quick, **scaling}}
    if sleep:
        spec |= {"resources": {"gpus": 1}, "vllm": {"sleep": True}}
    return {"apiVersion": "aiia.dev/v1", "kind": "Model", "metadata": {"name": name}, "spec": spec}


class Cheap(Cluster):
    """With the engine that costs nothing, and the verbs of an administrator."""

    def __init__(self, folder: Path, queues: FakeQueues) -> None:
        super().__init__(folder, Path(cheap.__file__), queues.url)
        self.start_head(queues.url)
        self.queues = queues

    def put(self, name: str, **options: Any) -> None:
        answer = self.manager.request("PUT", f"/models/{name}", json=document(name, **options))
        assert answer.is_success, answer.text

    def post(self, path: str, **body: Any) -> None:
        assert self.manager.request("POST", f"/models/{path}", json=body or None).status_code == 202

    def url(self, name: str, what: float | str) -> str:
        path = what if isinstance(what, str) else f"count/{what}"
        return f"http://127.0.0.1:{self.settings.serve_port}/{name}/{path}"


class Stream:
    """An answer that is read in the background, to its end."""

    def __init__(self, url: str) -> None:
        self.lines: list[str] = []
        self.begun = threading.Event()
        self._url = url
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.begun.wait(60)

    def _read(self) -> None:
        with httpx.stream("GET", self._url, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.lines.append(line.removeprefix("data: "))
                    self.begun.set()

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    @property
    def pid(self) -> int:
        """The replica's process."""
        pid: int = json.loads(self.lines[0])["pid"]
        return pid

    def numbers(self) -> list[int]:
        """All of them, once it has ended as it should."""
        self._thread.join(180)
        assert not self.goes_on
        assert self.lines[-1] == "[DONE]"
        return [json.loads(line)["number"] for line in self.lines[:-1]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cheap]:
    with FakeQueues() as queues:
        cluster = Cheap(tmp_path_factory.mktemp("manager"), queues)
        yield cluster
        cluster.stop()


def test_replicas_follow_the_queue_from_none_to_two_and_back(cluster: Cheap) -> None:
    cluster.put("elastic", minReplicas=0, maxReplicas=2)
    cold = cluster.manager.wait_state("elastic", "cold")
    assert cold["starts_on_demand"]
    cluster.queues.set("elastic", waiting=1)
    cluster.manager.wait_state("elastic", "starting", 120)
    assert cluster.manager.wait_state("elastic", "ready", 120)["max_in_flight"] == 2
    cluster.queues.set("elastic", waiting=9, running=2, slots=2, work_s=60)
    assert cluster.wait_replicas("elastic", 2)["max_in_flight"] == 4
    # The work is done but for one stream: one replica stays for it, whatever the time.
    stream = Stream(cluster.url("elastic", 20))
    cluster.queues.set("elastic", running=1, slots=4)
    cluster.wait_replicas("elastic", 1)
    assert stream.goes_on
    assert stream.numbers() == list(range(200))
    assert cluster.manager.wait(bool)["elastic"]["replicas"] == 1
    cluster.queues.set("elastic")
    cluster.manager.wait_state("elastic", "cold", 60)
    assert cluster.wait_replicas("elastic", 0)["starts_on_demand"]


def test_a_change_of_one_model_leaves_the_streams_of_another_whole(cluster: Cheap) -> None:
    cluster.put("steady")
    cluster.manager.wait_state("steady", "ready", 120)
    stream = Stream(cluster.url("steady", 500))
    cluster.put("other")
    cluster.manager.wait_state("other", "ready", 120)
    cluster.post("other/scale", min_replicas=2, max_replicas=2)
    cluster.wait_replicas("other", 2)
    cluster.post("other/scale", min_replicas=1, max_replicas=1)
    cluster.wait_replicas("other", 1)
    cluster.post("other/unload")
    cluster.manager.wait_state("other", "cold", 120)
    cluster.post("other/load")
    cluster.manager.wait_state("other", "ready", 120)
    assert cluster.manager.request("DELETE", "/models/other").status_code == 204
    cluster.manager.wait(lambda models: "other" not in models, 120)
    assert stream.goes_on
    httpx.get(cluster.url("steady", "enough"))
    numbers = stream.numbers()
    assert numbers == list(range(len(numbers)))


def test_bounds_change_in_place_and_a_document_under_its_own_streams(cluster: Cheap) -> None:
    cluster.put("steady")
    cluster.manager.wait_state("steady", "ready", 120)
    before = cluster.manager.request("GET", "/events").json()["last"]
    stream = Stream(cluster.url("steady", 60))
    cluster.post("steady/scale", min_replicas=2, max_replicas=2)
    cluster.wait_replicas("steady", 2)
    cluster.post("steady/scale", min_replicas=1, max_replicas=1)
    cluster.wait_replicas("steady", 1)
    # It was ready all the time.
    events = cluster.manager.request("GET", "/events", params={"after": before}).json()["events"]
    assert [event for event in events if event["model"] == "steady"] == []
    cluster.put("steady", targetWaitS=5)
    cluster.manager.wait(lambda models: models["steady"]["state"] != "ready", 60)
    cluster.manager.wait_state("steady", "ready", 120)
    assert stream.numbers() == list(range(600))


def test_unloading_lets_answers_end_and_no_request_starts_it(cluster: Cheap) -> None:
    cluster.put("drained", minReplicas=0)
    cluster.post("drained/load")
    cluster.manager.wait_state("drained", "ready", 120)
    stream = Stream(cluster.url("drained", 8))
    cluster.post("drained/unload")
    cluster.manager.wait_state("drained", "draining")
    assert stream.numbers() == list(range(80))
    state = cluster.manager.wait_state("drained", "cold", 60)
    assert (state["reason"], state["starts_on_demand"]) == ("Unloaded by an administrator", False)
    cluster.queues.set("drained", waiting=1)
    cluster.post("drained/scale", min_replicas=0, max_replicas=1)
    assert cluster.manager.wait(bool)["drained"]["state"] == "cold"
    cluster.post("drained/load")
    cluster.manager.wait_state("drained", "ready", 120)


def test_a_new_manager_finds_everything_as_it_was(cluster: Cheap) -> None:
    cluster.put("steady")
    cluster.manager.wait_state("steady", "ready", 120)
    stream = Stream(cluster.url("steady", 15))
    cluster.manager.stop()
    cluster.manager.start()
    cluster.manager.wait_state("steady", "ready", 60)
    assert stream.numbers() == list(range(150))


def test_an_idle_model_sleeps_and_wakes_for_the_first_request(cluster: Cheap) -> None:
    cluster.put("sleeper", sleep=True, minReplicas=0, maxReplicas=2)
    awake = cluster.manager.wait_state("sleeper", "ready", 120)
    pid = Stream(cluster.url("sleeper", 0.1)).pid
    asleep = cluster.manager.wait(lambda models: models["sleeper"]["reason"] == "Asleep", 60)["sleeper"]
    assert (asleep["state"], asleep["replicas"], asleep["starts_on_demand"]) == ("cold", 0, True)
    assert awake["replicas"] == 1
    cluster.manager.stop()
    cluster.manager.start()
    cluster.manager.wait(lambda models: models.get("sleeper", {}).get("reason") == "Asleep", 60)
    assert httpx.get(cluster.url("sleeper", 0.1)).status_code == 503
    cluster.queues.set("sleeper", waiting=1)
    cluster.manager.wait_state("sleeper", "ready", 60)
    assert Stream(cluster.url("sleeper", 0.1)).pid == pid
    cluster.queues.set("sleeper")
    cluster.manager.wait(lambda models: models["sleeper"]["reason"] == "Asleep", 60)
    cluster.post("sleeper/load")
    cluster.manager.wait_state("sleeper", "ready", 60)
