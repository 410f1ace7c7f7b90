"""Steps and previews of pipelines that are of no family, as far as there are any."""

import asyncio
from pathlib import Path

import pytest

from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.images.engine.engine import Engine
from tests.serving.images.test_engine_runs import Stop, draw, end, hooked, job, kinds, loaded, pixels
from tests.support.pipelines import SIZE, make, with_tiny_vae

pytestmark = pytest.mark.serving


async def test_latents_that_cannot_be_shown_cost_no_image(tmp_path: Path) -> None:
    memory = loaded(with_tiny_vae(make("sd15", tmp_path / "tiny")), DiffusersOptions())
    events = await draw(Engine(memory, "tiny"), previews=2)
    assert kinds(events).count("step") == 8
    assert "preview" not in kinds(events)
    assert pixels(events).shape[0] == 1


async def test_a_pipeline_of_no_family_has_previews(tmp_path: Path) -> None:
    memory = loaded(make("sd3", tmp_path / "tiny"), DiffusersOptions())
    events = await draw(Engine(memory, "tiny"), previews=2, width=SIZE, height=SIZE)
    assert kinds(events).count("preview") == 3


async def test_a_pipeline_with_callbacks_of_the_old_kind_has_steps_previews_and_ends_when_it_is_cancelled(
    tmp_path: Path,
) -> None:
    memory = loaded(make("pixart", tmp_path / "tiny"), DiffusersOptions())
    engine = Engine(memory, "tiny")
    events = await draw(engine, steps=4, previews=2)
    assert [event["step"] for event in events if event["type"] == "step"] == [1, 2, 3, 4]
    assert kinds(events).count("preview") == 1
    assert pixels(events).shape == (1, 256, 256, 3)
    stop = Stop(at=2)
    with memory.using("tiny") as placed, hooked(placed.model.network, stop):
        submission = await engine.submit(job(steps=50))
        await asyncio.to_thread(stop.reached.wait, 60)
        submission.cancel()
        stop.go.set()
        await asyncio.wait_for(engine.idle(), 60)
    assert stop.calls == 2
    assert "image" not in kinds(await end(submission))
