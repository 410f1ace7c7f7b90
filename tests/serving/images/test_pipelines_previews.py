"""Previews of pipelines that are of no family, as far as there are any."""

from pathlib import Path

import pytest

from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.images.engine.engine import Engine
from tests.serving.images.test_engine_runs import draw, kinds, loaded, pixels
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
