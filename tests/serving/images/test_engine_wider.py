"""An image that overflows in a narrow precision is drawn again in a wider one."""

import asyncio
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.images.engine.engine import Engine
from aiia_serving.images.engine.memory import Budget, Memory
from aiia_serving.images.engine.placement import Placed
from aiia_serving.images.works import assemble, prepare
from tests.serving.images.test_engine_runs import Stop, draw, end, hooked, job, kinds, loaded, pixels
from tests.support.pipelines import make

pytestmark = pytest.mark.serving

#: Beyond what 16 bits hold for values around one, and far below what 32 bits do.
HUGE = 1e5


def spoil(folder: Path, part: Literal["vae", "unet"]) -> Path:
    """Makes values grow beyond float16 in one part of the pipeline; a norm that follows makes them small again."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kind: Any = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}[part]
    module = kind.from_pretrained(folder / part)
    with torch.no_grad():
        (module.decoder.conv_in if part == "vae" else module.conv_in).weight.mul_(HUGE)
    module.save_pretrained(folder / part)
    return folder


def narrow(folder: Path, **options: Any) -> Memory[Placed]:
    return loaded(folder, DiffusersOptions.model_validate({"precision": "float16", **options}))


@pytest.mark.parametrize("part", ["vae", "unet"])
async def test_an_image_that_overflows_is_drawn_in_a_wider_precision(part: Any, tmp_path: Path) -> None:
    memory = narrow(spoil(make("sd15", tmp_path / "tiny"), part))
    engine = Engine(memory, "tiny")
    events = await draw(engine)
    found = kinds(events)
    assert found.count("again") == 1
    assert found.count("step") == 16
    recipe = next(event["recipe"] for event in events if event["type"] == "image")
    assert recipe["precision"] == "float32"
    # Only for that image, and exactly as before.
    with memory.using("tiny") as placed:
        kinds_of = {weight.dtype for module in placed.model.modules() for weight in module.parameters()}
        assert kinds_of == {torch.float16}
        placed.widen()
        (wide,) = assemble(placed.model, prepare(job(), placed.model).calls).run()
        placed.narrow()
    assert np.array_equal(pixels(events)[0], np.asarray(wide))
    assert memory.used() == (memory.states()[0]["bytes"], 0)
    # The recipe ends there again.
    assert np.array_equal(pixels(await end(await engine.submit(job(**recipe["job"])))), pixels(events))


async def test_weights_in_eight_bits_are_computed_with_in_a_wider_precision(tmp_path: Path) -> None:
    memory = narrow(spoil(make("sd15", tmp_path / "tiny"), "vae"), quantization="fp8")
    events = await draw(Engine(memory, "tiny"))
    assert kinds(events).count("again") == 1
    assert kinds(events)[-1] == "usage"
    with memory.using("tiny") as placed:
        assert torch.float8_e4m3fn in {weight.dtype for weight in placed.model.network.parameters()}


async def test_of_a_batch_that_overflows_each_is_drawn_again(tmp_path: Path) -> None:
    memory = narrow(spoil(make("sd15", tmp_path / "tiny"), "vae"))
    events = await draw(Engine(memory, "tiny", 4), n=2)
    assert len([event for event in events if event["type"] == "image"]) == 2


async def test_without_the_memory_for_it_the_image_fails_with_advice(tmp_path: Path) -> None:
    whole = narrow(spoil(make("sd15", tmp_path / "tiny"), "vae"))
    small: Memory[Placed] = Memory(Budget(int(whole.used()[0] * 1.5)))
    with whole.using("tiny") as placed:
        small.add("tiny", lambda: placed, whole.used()[0])
        events = await draw(Engine(small, "tiny"))
    assert (events[-1]["code"], events[-1]["status"]) == ("nan_image", 500)
    assert "wider precision" in events[-1]["advice"]


async def test_a_more_urgent_one_has_the_chosen_precision_in_between(tmp_path: Path) -> None:
    """Only the decoder overflows, and only for the latents of the patient one."""
    memory = narrow(make("sd15", tmp_path / "tiny"))
    engine = Engine(memory, "tiny")
    plain = pixels(await draw(engine, seed=4))
    with memory.using("tiny") as placed:
        network, decoder = placed.model.network, placed.model.components["vae"].decoder
    stop, seen = Stop(at=40), []

    def overflow(module: Any, _inputs: Any, output: Any) -> Any:
        seen.append(output.dtype)
        # The first to be decoded is the patient one's first try.
        return output * float("nan") if len(seen) == 1 else output

    with hooked(network, stop), hooked(decoder, overflow):
        patient = await engine.submit(job(priority="batch", steps=30))
        await asyncio.to_thread(stop.reached.wait, 60)
        urgent = await engine.submit(job(priority="interactive", seed=4))
        stop.go.set()
        events, others = await asyncio.gather(end(patient), end(urgent))
    assert np.array_equal(pixels(others), plain)
    found = kinds(events)
    assert found.index("again") < found.index("preempted") < found.index("image")
    assert seen == [torch.float16, torch.float16, torch.float32]
