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
from aiia_serving.images.model import Model
from aiia_serving.images.problem import ImageProblem
from tests.serving.images.test_engine_runs import Events, Stop, draw, end, hooked, job, kinds, pixels
from tests.support.pipelines import FAMILIES, SIZE, make

pytestmark = pytest.mark.serving

SMALL = {"width": SIZE, "height": SIZE}


class Loads:
    """Loaders of the tiny pipelines, that count what they do, and stop at ``stops``."""

    def __init__(self, folder: Path) -> None:
        self.stops: dict[str, Stop] = {}
        options = DiffusersOptions().model_dump() | places(DiffusersOptions(), folder)
        self.loaders = {name: Loader(name, make(name, folder / name), options) for name in FAMILIES}
        self.done: list[str] = []

    def memory(self, room: int) -> Memory[Placed]:
        self.done.clear()
        self.stops.clear()
        memory: Memory[Placed] = Memory(Budget(room))
        for name, loader in self.loaders.items():
            memory.add(name, self._counted(name), loader.bytes, loader.how)
        return memory

    def _counted(self, name: str) -> Callable[[], Placed]:
        def load() -> Placed:
            self.done.append(name)
            if name in self.stops:
                self.stops[name]()
            return self.loaders[name].load()

        return load


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Loads:
    return Loads(tmp_path_factory.mktemp("models"))


def largest(loads: Loads) -> int:
    """Room for each of the models, but for no two."""
    return max(loader.bytes for loader in loads.loaders.values())


async def ready(engine: Engine, name: str) -> Model:
    await of(engine, name)
    with engine.memory.using_if_there(name) as placed:
        assert placed
        return placed.model


async def of(engine: Engine, model: str, **values: object) -> Events:
    return await end(await engine.submit(job(**SMALL, **values), model))


async def test_each_is_loaded_when_it_is_asked_for_and_the_others_make_room(loads: Loads) -> None:
    room = largest(loads)
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
    engine = Engine(loads.memory(largest(loads)), "sd15")
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


async def test_one_that_waits_for_room_holds_up_none_whose_model_is_there(loads: Loads) -> None:
    engine = Engine(loads.memory(largest(loads)), "sd15")
    model = await ready(engine, "sd15")
    stop = Stop(at=4)
    with hooked(model.network, stop):
        patient = await engine.submit(job(**SMALL, steps=60, priority="batch"), "sd15")
        await asyncio.to_thread(stop.reached.wait, 60)
        without_room = await engine.submit(job(**SMALL, priority="interactive"), "sdxl")
        urgent = await engine.submit(job(**SMALL, priority="interactive"), "sd15")
        stop.go.set()
        events, *others = await asyncio.gather(*map(end, (patient, without_room, urgent)))
    assert kinds(events).index("preempted") < kinds(events).index("resumed")
    assert [kinds(found)[-1] for found in (events, *others)] == ["usage"] * 3
    assert loads.done == ["sd15", "sdxl"]


async def test_one_cancelled_while_it_waits_for_room_brings_nothing(loads: Loads) -> None:
    engine = Engine(loads.memory(largest(loads)), "sd15")
    model = await ready(engine, "sd15")
    stop = Stop(at=4)
    with hooked(model.network, stop):
        patient = await engine.submit(job(**SMALL, priority="batch"), "sd15")
        await asyncio.to_thread(stop.reached.wait, 60)
        without_room = await engine.submit(job(**SMALL, priority="interactive"), "sdxl")
        without_room.cancel()
        stop.go.set()
        assert kinds(await end(patient))[-1] == "usage"
    await asyncio.wait_for(engine.idle(), 60)
    assert loads.done == ["sd15"]
    assert engine.memory.is_ready("sd15")


async def test_while_one_is_brought_those_whose_model_is_there_draw_and_cancelled_ones_end(loads: Loads) -> None:
    engine = Engine(loads.memory(10**9), "sd15")
    await ready(engine, "sd15")
    stop = loads.stops["flux"] = Stop()
    patient = await engine.submit(job(**SMALL, priority="batch"), "flux")
    await asyncio.to_thread(stop.reached.wait, 60)
    cancelled = await engine.submit(job(**SMALL, priority="interactive"), "sdxl")
    # It says so as it begins to wait.
    events = cancelled.events()
    assert (await anext(events))["type"] == "loading"
    urgent = await engine.submit(job(**SMALL, priority="interactive"), "sd15")
    assert kinds(await asyncio.wait_for(end(urgent), 60))[-1] == "usage"
    await events.aclose()
    stop.go.set()
    assert kinds(await end(patient))[-1] == "usage"
    await asyncio.wait_for(engine.idle(), 60)
    assert loads.done == ["sd15", "flux"]
