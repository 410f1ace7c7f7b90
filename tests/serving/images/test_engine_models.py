"""Several models in one engine, within a budget of memory that does not hold them all."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.engines.diffusers import places
from aiia_serving.images.engine.engine import Engine
from aiia_serving.images.engine.loading import Loader
from aiia_serving.images.engine.memory import Budget, Memory
from aiia_serving.images.engine.placement import Placed
from aiia_serving.images.problem import ImageProblem
from tests.serving.images.test_engine_runs import Events, draw, end, job, kinds, pixels
from tests.support.pipelines import FAMILIES, SIZE, make

pytestmark = pytest.mark.serving

SMALL = {"width": SIZE, "height": SIZE}


class Loads:
    """Loaders of the tiny pipelines, that count what they do."""

    def __init__(self, folder: Path) -> None:
        options = DiffusersOptions().model_dump() | places(DiffusersOptions(), folder)
        self.loaders = {name: Loader(name, make(name, folder / name), options) for name in FAMILIES}
        self.done: list[str] = []

    def memory(self, room: int) -> Memory[Placed]:
        self.done.clear()
        memory: Memory[Placed] = Memory(Budget(room))
        for name, loader in self.loaders.items():
            memory.add(name, self._counted(name), loader.bytes, loader.how)
        return memory

    def _counted(self, name: str) -> Callable[[], Placed]:
        def load() -> Placed:
            self.done.append(name)
            return self.loaders[name].load()

        return load


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Loads:
    return Loads(tmp_path_factory.mktemp("models"))


async def of(engine: Engine, model: str, **values: object) -> Events:
    return await end(await engine.submit(job(**SMALL, **values), model))


async def test_each_is_loaded_when_it_is_asked_for_and_the_others_make_room(loads: Loads) -> None:
    room = max(loader.bytes for loader in loads.loaders.values())
    alone = {}
    for name in FAMILIES:
        alone[name] = pixels(await draw(Engine(loads.memory(10**9), name), **SMALL))
    memory = loads.memory(room)
    engine = Engine(memory, "sd15")
    for name in ("sdxl", "flux", "sd15", "sdxl"):
        events = await of(engine, name)
        assert kinds(events)[:2] == ["waiting", "loading"] or kinds(events)[0] == "loading"
        assert np.array_equal(pixels(events), alone[name])
        assert memory.used()[0] <= room
        assert [one["name"] for one in memory.states() if one["place"] == "device"] == [name]
    assert loads.done == ["sdxl", "flux", "sd15", "sdxl"]
    state = next(one for one in memory.states() if one["name"] == "sdxl")
    assert (state["precision"], state["quantization"], state["offload"]) == ("float32", "none", "none")
    assert state["why"]
    assert state["load_s"]


async def test_what_is_wrong_is_said_once_the_model_is_there(loads: Loads) -> None:
    engine = Engine(loads.memory(10**9), "sd15")
    events = await of(engine, "sdxl", scheduler="none-such")
    assert (events[-1]["code"], events[-1]["status"], events[-1]["param"]) == ("unknown_scheduler", 400, "scheduler")
    with pytest.raises(ImageProblem):
        await of(engine, "sdxl", scheduler="none-such")
    with pytest.raises(ImageProblem) as unknown:
        await of(engine, "nobody")
    assert unknown.value.status == 404
    assert engine.is_idle


async def test_those_whose_model_is_there_go_first_for_a_while(loads: Loads) -> None:
    engine = Engine(loads.memory(max(loader.bytes for loader in loads.loaders.values())), "sd15")
    await of(engine, "sdxl")
    await of(engine, "sd15")
    loads.done.clear()
    asked = [await engine.submit(job(**SMALL, steps=1), name) for name in ("sd15", "sdxl") * 4]
    events = await asyncio.gather(*map(end, asked))
    assert all(kinds(found)[-1] == "usage" for found in events)
    # In the order of arrival each of the eight would have brought its model anew.
    assert len(loads.done) < 7


async def test_one_that_cannot_be_loaded_says_why_and_the_others_draw(loads: Loads, tmp_path: Path) -> None:
    memory = loads.memory(10**9)
    memory.refuse("broken", ImageProblem("It is torn.", code="bad_weights", status=422))
    engine = Engine(memory, "sd15")
    events = await of(engine, "broken")
    assert (events[-1]["code"], events[-1]["status"]) == ("bad_weights", 422)
    assert next(one["problem"] for one in memory.states() if one["name"] == "broken") == "It is torn."
    assert pixels(await draw(engine)).shape == (1, SIZE, SIZE, 3)
