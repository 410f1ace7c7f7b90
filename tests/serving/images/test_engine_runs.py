"""The engine in this process, on a real pipeline with random weights."""

import asyncio
import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aiia_serving.catalogue.options import DiffusersOptions, ImagePart
from aiia_serving.engines.diffusers import places
from aiia_serving.images.engine.engine import Engine, Submission
from aiia_serving.images.engine.loading import Loader
from aiia_serving.images.engine.memory import Budget, Memory
from aiia_serving.images.engine.placement import Placed
from aiia_serving.images.engine.previews import Projection
from aiia_serving.images.job import Job
from aiia_serving.images.model import Model
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.works import assemble, prepare
from tests.support.pipelines import FAMILIES, SIZE, make, make_lora

pytestmark = pytest.mark.serving

Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory[Placed]:
    folder = tmp_path_factory.mktemp("pipeline")
    make("sd15", folder / "tiny")
    make_lora("sd15", folder / "style.safetensors")
    (folder / "torn.safetensors").write_bytes((folder / "style.safetensors").read_bytes()[:-50])
    parts = [ImagePart.model_validate({"name": name, "source": {"path": str(folder / f"{name}.safetensors")}})
             for name in ("style", "torn")]  # fmt: skip
    options = DiffusersOptions(loras=tuple(parts))
    return loaded(folder / "tiny", options)


def loaded(pipeline: Path, options: DiffusersOptions) -> Memory[Placed]:
    """A memory with that one model, as ``tiny``."""
    loader = Loader("tiny", pipeline, options.model_dump() | places(options, pipeline))
    memory: Memory[Placed] = Memory(Budget(10**9))
    memory.add("tiny", loader.load, loader.bytes)
    with memory.using("tiny") as placed:
        assert placed.model.bytes() <= loader.bytes
    return memory


@pytest.fixture
def model(memory: Memory[Placed]) -> Iterator[Model]:
    with memory.using("tiny") as placed:
        yield placed.model


def job(**values: Any) -> Job:
    return Job.parse({"work": "generate", "prompt": "a star", "seed": 3, "steps": 8, **values})


async def end(submission: Submission) -> Events:
    return [event async for event in submission.events()]


async def draw(engine: Engine, **values: Any) -> Events:
    return await end(await engine.submit(job(**values)))


def pixels(events: Events) -> np.ndarray[Any, Any]:
    images = [event for event in events if event["type"] == "image"]
    assert images, events
    decoded = [Image.open(io.BytesIO(base64.b64decode(event["image"]))) for event in images]
    return np.stack([np.asarray(image) for image in decoded])


def kinds(events: Events) -> list[str]:
    return [event["type"] for event in events]


@contextmanager
def hooked(module: Any, hook: Any) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class Stop:
    """Holds a module's computation when it is reached for the ``at``-th time, until it is let go."""

    def __init__(self, at: int = 1) -> None:
        self._left = at
        self.reached = threading.Event()
        self.go = threading.Event()
        self.calls = 0

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        self._left -= 1
        if self._left == 0:
            self.reached.set()
            assert self.go.wait(60)


async def test_it_draws_what_plain_diffusers_draws(memory: Memory[Placed], model: Model) -> None:
    call = prepare(job(), model).calls[0]
    pipe: Any = assemble(model, [call]).pipe
    plain = pipe(
        prompt="a star", negative_prompt="", num_inference_steps=8, guidance_scale=7.5, width=SIZE, height=SIZE,
        generator=torch.Generator("cpu").manual_seed(3), output_type="np",
    ).images  # fmt: skip
    drawn = pixels(await draw(Engine(memory, "tiny")))
    assert np.array_equal(drawn, (plain * 255).round().astype("uint8"))


async def test_a_batch_is_each_alone(memory: Memory[Placed]) -> None:
    engine = Engine(memory, "tiny", 4)
    alone = [pixels(await draw(engine, seed=seed, prompt=f"star {seed}")) for seed in range(4)]
    first = await engine.submit(job(seed=99, steps=20))
    waiting = [await engine.submit(job(seed=seed, prompt=f"star {seed}")) for seed in range(4)]
    together = await asyncio.gather(*map(end, waiting))
    await end(first)
    for events, wanted in zip(together, alone, strict=True):
        found = pixels(events)
        assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1
        assert kinds(events).count("step") == 8
    charged = [event["gpu_ms"] for events in together for event in events if event["type"] == "usage"]
    assert len(set(charged)) == 1, "those of one batch share its time"


async def test_several_images_of_one_job(memory: Memory[Placed]) -> None:
    events = await draw(Engine(memory, "tiny", 2), n=3)
    assert [event["seed"] for event in events if event["type"] == "image"] == [3, 4, 5]
    steps = [event["step"] for event in events if event["type"] == "step"]
    assert steps == sorted(steps)
    assert steps[-1] == 24
    assert events[-1]["steps"] == 24


async def test_the_time_left_is_that_of_all_images_of_the_job(memory: Memory[Placed]) -> None:
    events = await draw(Engine(memory, "tiny", 2), n=4)
    left_s = {event["step"]: event["eta_s"] for event in events if event["type"] == "step"}
    whole_s = events[-1]["gpu_ms"] / 1000
    # After half of it there is about half to come, and of the last step what follows it.
    assert left_s[16] > whole_s / 8
    assert left_s[32] < left_s[16]


async def test_a_recipe_makes_the_same_pixels(memory: Memory[Placed]) -> None:
    engine = Engine(memory, "tiny")
    first = await draw(engine, seed=None, loras=[{"name": "style", "weight": 0.5}])
    recipe = next(event["recipe"] for event in first if event["type"] == "image")
    again = await end(await engine.submit(Job.parse(recipe["job"])))
    assert np.array_equal(pixels(first), pixels(again))


async def test_one_that_is_more_urgent_takes_over_and_both_are_as_alone(memory: Memory[Placed], model: Model) -> None:
    engine = Engine(memory, "tiny")
    style = {"loras": [{"name": "style", "weight": 1.0}]}
    styled, plain = pixels(await draw(engine, steps=60, **style)), pixels(await draw(engine, seed=4))
    assert not np.array_equal(styled, pixels(await draw(engine, steps=60)))
    stop = Stop(at=4)
    with hooked(model.network, stop):
        patient = await engine.submit(job(priority="batch", steps=60, **style))
        await asyncio.to_thread(stop.reached.wait, 60)
        urgent = await engine.submit(job(priority="interactive", seed=4))
        stop.go.set()
        events, others = await asyncio.gather(end(patient), end(urgent))
    assert np.array_equal(pixels(events), styled)
    assert np.array_equal(pixels(others), plain)
    found = kinds(events)
    # It was in its fourth step, and gave the device away soon after.
    assert 4 <= found[: found.index("preempted")].count("step") < 60
    assert found.index("resumed") > found.index("preempted")
    assert next(e for e in events if e["type"] == "usage")["gpu_ms"] > 0
    await engine.idle()


async def test_cancelled_while_it_waits(memory: Memory[Placed], model: Model) -> None:
    engine = Engine(memory, "tiny")
    stop = Stop()
    with hooked(model.network, stop):
        first = await engine.submit(job())
        await asyncio.to_thread(stop.reached.wait, 60)
        second, third = await engine.submit(job(seed=4)), await engine.submit(job(seed=5))
        second.cancel()
        stop.go.set()
        events = await asyncio.gather(end(first), end(second), end(third))
    assert kinds(events[1]) == ["waiting"]
    assert [event["position"] for event in events[2] if event["type"] == "waiting"] == [2, 1]
    assert stop.calls == 16
    await engine.idle()


async def test_cancelled_while_it_runs(memory: Memory[Placed], model: Model) -> None:
    engine = Engine(memory, "tiny")
    stop = Stop(at=3)
    with hooked(model.network, stop):
        submission = await engine.submit(job())
        await asyncio.to_thread(stop.reached.wait, 60)
        submission.cancel()
        stop.go.set()
        await asyncio.wait_for(engine.idle(), 60)
    assert stop.calls == 3, "it ends with the step that runs"


async def test_cancelled_while_it_decodes(memory: Memory[Placed], model: Model) -> None:
    engine = Engine(memory, "tiny")
    vae = model.components["vae"]
    stop, last = Stop(), Stop(at=0)
    with hooked(vae.post_quant_conv, stop), hooked(vae.decoder.conv_out, last):
        submission = await engine.submit(job())
        await asyncio.to_thread(stop.reached.wait, 60)
        submission.cancel()
        stop.go.set()
        await asyncio.wait_for(engine.idle(), 60)
    assert last.calls == 0
    assert pixels(await draw(engine)).shape == (1, SIZE, SIZE, 3)


async def test_cancelled_while_it_loads(tmp_path: Path) -> None:
    make("sd15", tmp_path / "tiny")
    options = DiffusersOptions()
    loader = Loader("tiny", tmp_path / "tiny", options.model_dump() | places(options, tmp_path))
    loading, go = threading.Event(), threading.Event()

    def load() -> Placed:
        loading.set()
        assert go.wait(60)
        return loader.load()

    memory: Memory[Placed] = Memory(Budget(10**9))
    memory.add("tiny", load, loader.bytes)
    engine = Engine(memory, "tiny")
    submission = await engine.submit(job())
    await asyncio.to_thread(loading.wait, 60)
    submission.cancel()
    go.set()
    await asyncio.wait_for(engine.idle(), 60)
    assert kinds(await end(submission)) == ["loading"]
    assert pixels(await draw(engine)).shape == (1, SIZE, SIZE, 3)


async def test_who_stops_listening_cancels(memory: Memory[Placed], model: Model) -> None:
    engine = Engine(memory, "tiny")
    stop = Stop(at=2)
    with hooked(model.network, stop):
        submission = await engine.submit(job())
        events = submission.events()
        assert (await anext(events))["type"] == "step"
        await asyncio.to_thread(stop.reached.wait, 60)
        await events.aclose()
        stop.go.set()
        await asyncio.wait_for(engine.idle(), 60)
    assert stop.calls == 2


async def test_too_large_a_batch_is_drawn_one_by_one(memory: Memory[Placed], model: Model) -> None:
    def small_memory(_module: Any, inputs: Any, _output: Any) -> None:
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError

    engine = Engine(memory, "tiny", 4)
    wanted = [pixels(await draw(engine, seed=seed)) for seed in (3, 4)]
    with hooked(model.network, small_memory):
        events = await draw(engine, n=2)
    assert np.array_equal(pixels(events), np.concatenate(wanted))


async def test_without_memory_a_job_fails_with_advice_and_others_live(memory: Memory[Placed], model: Model) -> None:
    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError

    engine = Engine(memory, "tiny")
    with hooked(model.network, no_memory):
        events = await draw(engine)
    assert (events[-1]["status"], events[-1]["code"]) == (507, "out_of_memory")
    assert "smaller size" in events[-1]["advice"]
    assert pixels(await draw(engine)).shape == (1, SIZE, SIZE, 3)


def of_seed(seed: int, latents: torch.Tensor) -> torch.Tensor:
    """Which of those that the network is given first are the noise of a seed."""
    noise = torch.randn((1, 4, SIZE // 2, SIZE // 2), generator=torch.Generator("cpu").manual_seed(seed))
    return torch.tensor([torch.equal(one, noise[0]) for one in latents])


async def test_of_a_batch_only_the_image_without_numbers_fails(memory: Memory[Placed], model: Model) -> None:
    def spoil(_module: Any, inputs: Any, output: Any) -> Any:
        output[0][of_seed(4, inputs[0])] = float("nan")
        return output

    engine = Engine(memory, "tiny", 4)
    good = pixels(await draw(engine))
    first = await engine.submit(job(seed=9))
    with hooked(model.network, spoil):
        pair = [await engine.submit(job(seed=seed)) for seed in (3, 4)]
        healthy, ill = await asyncio.gather(*map(end, pair))
    await end(first)
    assert np.array_equal(pixels(healthy), good)
    assert ill[-1]["code"] == "nan_image"
    assert ill[-1]["advice"]


async def test_an_unknown_failure_is_no_one_elses(
    memory: Memory[Placed], model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    together, words = 0, job().prompt

    def fail(_module: Any, inputs: Any, _output: Any) -> None:
        nonlocal together
        if of_seed(4, inputs[0]).any():
            # Each is there with and without its prompt.
            together = max(together, len(inputs[0]) // 2)
            raise ZeroDivisionError(words)

    engine = Engine(memory, "tiny", 4)
    good = pixels(await draw(engine))
    with hooked(model.network, fail):
        first = await engine.submit(job(seed=9, steps=20))
        pair = [await engine.submit(job(seed=seed)) for seed in (3, 4)]
        healthy, ill = await asyncio.gather(*map(end, pair))
    await end(first)
    assert together == 2, "they were one batch"
    assert np.array_equal(pixels(healthy), good)
    assert ill[-1]["code"] == "engine_failed"
    assert caplog.text.count("an image failed: ZeroDivisionError") == 2
    assert words not in caplog.text
    assert pixels(await draw(engine)).shape == (1, SIZE, SIZE, 3)


async def test_a_torn_lora_is_refused(memory: Memory[Placed]) -> None:
    engine = Engine(memory, "tiny")
    with pytest.raises(ImageProblem, match="torn"):
        await engine.submit(job(loras=[{"name": "torn", "weight": 1.0}]))
    assert engine.is_idle


async def test_previews_come_every_so_many_steps_and_cost_no_pixels(memory: Memory[Placed]) -> None:
    engine = Engine(memory, "tiny")
    without, events = await draw(engine), await draw(engine, previews=3)
    assert [event["step"] for event in events if event["type"] == "preview"] == [3, 6]
    shown = next(event["image"] for event in events if event["type"] == "preview")
    assert Image.open(io.BytesIO(base64.b64decode(shown))).format == "JPEG"
    assert np.array_equal(pixels(without), pixels(events))


@pytest.mark.parametrize("family", FAMILIES)
async def test_each_family_is_preempted_batched_and_shown(family: str, tmp_path: Path) -> None:
    memory = loaded(make(family, tmp_path / family), DiffusersOptions())
    engine = Engine(memory, "tiny", 4)
    size = {"width": SIZE, "height": SIZE}
    long, alone = pixels(await draw(engine, steps=60, **size)), pixels(await draw(engine, **size))
    with memory.using("tiny") as placed:
        network = placed.model.network
    stop = Stop(at=4)
    with hooked(network, stop):
        patient = await engine.submit(job(priority="batch", steps=60, previews=20, **size))
        await asyncio.to_thread(stop.reached.wait, 60)
        urgent = [await engine.submit(job(priority="interactive", seed=seed, **size)) for seed in (3, 4)]
        stop.go.set()
        events, first, _ = await asyncio.gather(end(patient), *map(end, urgent))
    assert "preempted" in kinds(events)
    assert kinds(events).count("preview") == 2
    assert np.array_equal(pixels(events), long)
    # The two urgent ones may have been one batch, or one after the other.
    assert np.abs(pixels(first).astype(int) - alone.astype(int)).max() <= 1


def test_the_projection_follows_any_linear_vae() -> None:
    class Vae(torch.nn.Module):  # type: ignore[misc]
        """Latents are averages of blocks, mixed: a linear projection can undo that exactly."""

        config = type("Config", (), {"scaling_factor": 0.5, "shift_factor": 0.1})

        def __init__(self) -> None:
            super().__init__()
            self.mix = torch.nn.Conv2d(3, 4, 8, 8)
            torch.nn.init.normal_(self.mix.weight[:, :, :1, :1], generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                self.mix.weight[:] = self.mix.weight[:, :, :1, :1] / 64

        def encode(self, pictures: torch.Tensor) -> Any:
            mean = self.mix(pictures)
            return type("Output", (), {"latent_dist": type("Normal", (), {"mean": mean})})

    vae = Vae()
    model: Any = type("Model", (), {"components": {"vae": vae}, "latent_scale": 8})
    picture = torch.zeros(1, 3, 64, 64)
    picture[:, 0], picture[:, 1] = 0.5, -1.0
    latents = (vae.encode(picture).latent_dist.mean - 0.1) * 0.5
    (shown,) = Projection(model).images(latents.detach())
    assert np.abs(np.asarray(shown).astype(int) - np.array([191, 0, 128])).max() <= 2


def test_eight_bits_take_a_quarter_and_draw_nearly_the_same(tmp_path: Path, model: Model) -> None:
    make("sd15", tmp_path / "tiny")
    options = DiffusersOptions.model_validate({"quantization": "fp8"})
    loader = Loader("tiny", tmp_path / "tiny", options.model_dump() | places(options, tmp_path))
    narrow = loader.load()
    size = sum(weight.numel() * weight.element_size() for weight in narrow.model.network.parameters())
    assert size < 0.35 * sum(weight.numel() * 4 for weight in model.network.parameters())
    found = assemble(narrow.model, prepare(job(), narrow.model).calls).run()[0]
    wanted = assemble(model, prepare(job(), model).calls).run()[0]
    assert np.abs(np.asarray(found).astype(int) - np.asarray(wanted).astype(int)).mean() < 20
