"""Three image models of one document on one replica of real Ray Serve, in a budget that holds two; by the gateway."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.engines.diffusers import places
from aiia_serving.images.engine.loading import Loader
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.serving.test_images_ray import pixels
from tests.support.cluster import Cluster
from tests.support.demand import FakeQueues
from tests.support.pipelines import SIZE, make

pytestmark = [pytest.mark.serving, pytest.mark.timeout(900)]

#: The document's own model first.
MODELS = {"plain": "sd15", "large": "sdxl", "flow": "flux"}
KEY = "sk-user"


class Studio(Cluster):
    """One document with three models and a torn fourth; the budget holds the own one with the larger of the others."""

    def __init__(self, folder: Path, queues: FakeQueues) -> None:
        super().__init__(folder, gateway_url=queues.url)
        self.start_head(queues.url)
        options = DiffusersOptions().model_dump() | places(DiffusersOptions(), folder)
        sizes = {name: Loader(name, make(family, folder / name), options).bytes for name, family in MODELS.items()}
        (folder / "torn.safetensors").write_bytes(b"torn")
        self.budget = sizes["plain"] + max(sizes.values())
        assert sum(sizes.values()) > self.budget
        further = [{"name": name, "source": {"path": str(folder / name)}} for name in ("large", "flow")]
        further += [{"name": "torn", "source": {"path": str(folder / "torn.safetensors")}}]
        document = {
            "apiVersion": "aiia.dev/v1",
            "kind": "Model",
            "metadata": {"name": "plain"},
            "spec": {
                "task": "image",
                "engine": "diffusers",
                "source": {"path": str(folder / "plain")},
                "diffusers": {"models": further, "memoryGb": self.budget / 1e9},
            },
        }
        answer = self.manager.request("PUT", "/models/plain", json=document)
        assert answer.is_success, answer.text

    def held(self, models: dict[str, Any]) -> dict[str, str]:
        """Where each model is, as the manager tells it."""
        return {name: model["held"][0]["place"] for name, model in models.items() if model["held"]}

    def states(self) -> Any:
        url = f"http://127.0.0.1:{self.settings.serve_port}/plain/v1/images/states"
        return {one["name"]: one for one in httpx.get(url, timeout=60).json()["models"]}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with FakeQueues() as queues:
        studio = Studio(tmp_path_factory.mktemp("studio"), queues)
        try:
            studio.manager.wait_state("plain", "ready", 240)
            yield studio
        finally:
            studio.stop()


@pytest.fixture(scope="module")
def client(studio: Studio) -> Iterator[openai.OpenAI]:
    with FakeControl() as control:
        control.add_key(KEY, "alice")
        with (
            GatewayProcess(control.url, manager_url=studio.manager.url, AIIA_PLATFORM_URL=control.url) as gateway,
            openai.OpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=0, timeout=120) as client,
        ):
            yield client


def draw(client: openai.OpenAI, model: str, seed: int = 1) -> np.ndarray[Any, Any]:
    answer = client.images.generate(
        model=model,
        prompt="a star",
        size=f"{SIZE}x{SIZE}",
        extra_body={"seed": seed, "steps": 3},  # type: ignore[arg-type]
    )
    assert answer.data is not None
    assert answer.data[0].b64_json is not None
    return pixels(answer.data[0].b64_json)


def test_each_is_listed_and_only_the_own_one_is_in_memory(studio: Studio, client: openai.OpenAI) -> None:
    models = studio.manager.wait(lambda models: len(studio.held(models)) == 4)
    assert studio.held(models) == {"plain": "device", "large": "away", "flow": "away", "torn": "away"}
    assert {model.id for model in client.models.list()} == {"plain", "large", "flow", "torn"}
    assert [models[name]["base"] for name in ("plain", "large", "flow")] == [None, "plain", "plain"]
    (held,) = models["plain"]["held"]
    assert (held["device"], held["precision"], held["quantization"], held["offload"]) == (
        "cpu",
        "float32",
        "none",
        "none",
    )
    assert held["why"]
    assert held["bytes"] > 1_000_000


def test_each_draws_what_it_draws_alone_and_the_budget_holds(studio: Studio, client: openai.OpenAI) -> None:
    dice, first = Random(5), {name: draw(client, name) for name in MODELS}
    assert len({picture.tobytes() for picture in first.values()}) == 3
    for _ in range(12):
        name = dice.choice(list(MODELS))
        assert np.array_equal(draw(client, name), first[name])
        states = studio.states()
        assert sum(one["bytes"] for one in states.values() if one["place"] == "device") <= studio.budget
        assert states[name]["place"] == "device"


def test_the_last_asked_for_is_shown_in_memory_and_what_loading_cost(studio: Studio, client: openai.OpenAI) -> None:
    for name in ("flow", "large"):
        draw(client, name)
        models = studio.manager.wait(lambda models, name=name: studio.held(models)[name] == "device")  # type: ignore[misc]
        assert models[name]["held"][0]["load_s"] > 0


def test_a_torn_one_fails_alone_and_says_why(studio: Studio, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        draw(client, "torn")
    assert refused.value.code == "bad_weights"
    models = studio.manager.wait(lambda models: models["torn"]["held"][0]["problem"])
    assert "torn.safetensors" in models["torn"]["held"][0]["problem"]
    assert draw(client, "plain").shape == (SIZE, SIZE, 3)


def test_what_is_wrong_is_refused_for_each(client: openai.OpenAI) -> None:
    for name in MODELS:
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(model=name, prompt="a", extra_body={"scheduler": "none-such"})
        assert refused.value.code == "unknown_scheduler"
