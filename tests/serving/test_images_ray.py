"""Image jobs on real Ray Serve, started by the manager from a Model document."""

import base64
import io
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.support.cluster import Cluster
from tests.support.demand import FakeQueues
from tests.support.pipelines import SIZE, make

pytestmark = [pytest.mark.serving, pytest.mark.timeout(600)]

MODEL = "tiny"
# Enough steps for anything to happen in the midst of them.
LONG = 900


class Images(Cluster):
    """One image model, and what its replica is asked."""

    def __init__(self, folder: Path, queues: FakeQueues) -> None:
        super().__init__(folder, gateway_url=queues.url)
        self.start_head(queues.url)
        make("sd15", folder / "pipeline")
        document = {
            "apiVersion": "aiia.dev/v1",
            "kind": "Model",
            "metadata": {"name": MODEL},
            "spec": {
                "task": "image",
                "engine": "diffusers",
                "source": {"path": str(folder / "pipeline")},
                "diffusers": {"batchSize": 4, "limits": {"max_steps": LONG}},
            },
        }
        answer = self.manager.request("PUT", f"/models/{MODEL}", json=document)
        assert answer.is_success, answer.text

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.serve_port}/{MODEL}/v1/images"

    def states(self) -> Any:
        return httpx.get(f"{self.url}/states", timeout=60).json()

    def wait_idle(self) -> None:
        # Asked again and again: the replica tells nobody.
        for _ in range(600):
            if self.states()["idle"]:
                return
            threading.Event().wait(0.05)
        raise AssertionError("the engine goes on")

    def ended(self, outcome: str) -> int:
        """Jobs that ended so since the replica started."""
        text = httpx.get(f"{self.url.removesuffix('/v1/images')}/metrics", timeout=60).text
        (value,) = re.findall(rf'aiia_engine_requests_total{{outcome="{outcome}"}} (\S+)', text) or ["0"]
        return int(float(value))

    def replica(self) -> psutil.Process:
        """The process that draws."""
        (found,) = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(f"Server:{MODEL}" in part for part in process.info["cmdline"] or [])
            and self.settings.run_dir.name in "".join(process.environ().values())
        ]
        return found


class Asked:
    """A job whose events are read in the background."""

    def __init__(self, url: str, **job: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.broken = False
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._url = url
        self._job = {"work": "generate", "prompt": "a star", "seed": 7, **job}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with httpx.stream("POST", f"{self._url}/jobs", json=self._job, timeout=120) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        with self._changed:
                            self.events.append(json.loads(line.removeprefix("data: ")))
                            self._changed.notify_all()
                    if self._stop.is_set():
                        return
        except httpx.HTTPError:
            self.broken = True
        finally:
            with self._changed:
                self._changed.notify_all()

    def wait(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 120) -> dict[str, Any]:
        """The first event that is wanted."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(wanted, self.events)) or not self._thread.is_alive(), timeout)
            return next(filter(wanted, self.events))

    def wait_kind(self, kind: str) -> dict[str, Any]:
        return self.wait(lambda event: event["type"] == kind)

    def leave(self) -> None:
        """Closes the connection at the next line, at the latest the replica's beat."""
        self._stop.set()
        self._thread.join(30)

    def end(self) -> list[dict[str, Any]]:
        self._thread.join(180)
        assert not self._thread.is_alive()
        return self.events

    def pixels(self) -> list[np.ndarray[Any, Any]]:
        images = [event for event in self.end() if event["type"] == "image"]
        return [pixels(event["image"]) for event in sorted(images, key=lambda event: event["index"])]


def pixels(encoded: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    with FakeQueues() as queues:
        images = Images(tmp_path_factory.mktemp("images"), queues)
        try:
            images.manager.wait_state(MODEL, "ready", 240)
            yield images
        finally:
            images.stop()


def test_a_job_has_steps_previews_and_images(images: Images) -> None:
    job = Asked(images.url, steps=6, n=2, previews=2)
    assert [found.shape for found in job.pixels()] == [(SIZE, SIZE, 3)] * 2
    kinds = [event["type"] for event in job.events]
    assert kinds.count("step") == 6
    assert kinds.count("preview") == 4
    assert kinds[-1] == "usage"
    assert [event["seed"] for event in job.events if event["type"] == "image"] == [7, 8]


def test_what_can_be_asked_is_told(images: Images) -> None:
    found = httpx.get(f"{images.url}/capabilities", timeout=60).json()
    assert found["family"] == "sd15"
    assert found["limits"]["max_steps"] == LONG
    (model,) = images.states()["models"]
    assert (model["place"], model["users"]) == ("device", 0)
    assert images.manager.wait(bool)[MODEL]["capabilities"] == ["images"]


def test_mistakes_are_refused_before_anything_starts(images: Images) -> None:
    answer = httpx.post(f"{images.url}/jobs", json={"work": "generate", "scheduler": "nobody"}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "scheduler"
    assert httpx.post(f"{images.url}/jobs", content=b"{", timeout=60).json()["error"]["code"] == "invalid_json"
    assert images.states()["idle"]


def test_an_urgent_job_goes_between_and_both_have_their_pixels(images: Images) -> None:
    (alone,) = Asked(images.url, steps=LONG // 2, priority="batch").pixels()
    (urgent,) = Asked(images.url, steps=5, seed=9, priority="interactive").pixels()
    patient = Asked(images.url, steps=LONG // 2, priority="batch")
    patient.wait_kind("step")
    between = Asked(images.url, steps=5, seed=9, priority="interactive")
    assert np.array_equal(between.pixels()[0], urgent)
    assert np.array_equal(patient.pixels()[0], alone)
    kinds = [event["type"] for event in patient.events]
    assert kinds.index("preempted") < kinds.index("resumed") < kinds.index("image")


def test_who_leaves_frees_the_engine(images: Images) -> None:
    running = Asked(images.url, steps=LONG)
    running.wait_kind("step")
    waiting = Asked(images.url, steps=LONG, seed=8)
    waiting.wait_kind("waiting")
    waiting.leave()
    running.leave()
    images.wait_idle()
    assert images.ended("cancelled") == 2
    assert len(running.events) < LONG


def test_a_killed_replica_comes_back_and_draws_the_same(images: Images) -> None:
    (before,) = Asked(images.url, steps=20).pixels()
    interrupted = Asked(images.url, steps=LONG)
    interrupted.wait_kind("step")
    os.kill(images.replica().pid, signal.SIGKILL)
    interrupted.end()
    assert not any(event["type"] == "image" for event in interrupted.events)
    images.manager.wait(lambda models: models[MODEL]["state"] != "ready", 60)
    images.manager.wait_state(MODEL, "ready", 240)
    (after,) = Asked(images.url, steps=20).pixels()
    assert np.array_equal(before, after)
