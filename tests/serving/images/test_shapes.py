"""The packaged pipeline draws what it is asked for: judged by pixels, on prompts that its training never saw."""

import base64
import io
from random import Random
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from aiia_serving.images.job import Job
from aiia_serving.images.sources import load_model
from aiia_serving.images.works import assemble, prepare
from tests.support.shapes import FOLDER, world

pytestmark = pytest.mark.serving

# Those of the Model document.
PRESETS: dict[str, Any] = {"steps": 20, "guidance": 2.0}


@pytest.fixture(scope="module")
def shapes() -> ModuleType:
    return world()


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return load_model(FOLDER, device="cpu")


def drawn(model: Any, job: Job) -> list[Image.Image]:
    batch = assemble(model, prepare(job, model).calls)
    batch.activate()
    images: list[Image.Image] = batch.run()
    return images


def encoded(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_the_check_tells_right_from_wrong(shapes: ModuleType) -> None:
    random = Random(3)
    for scene in random.sample(shapes.scenes(), 100):
        picture = shapes.draw(scene, random)
        assert shapes.shows(picture, scene)
        others = [other for other in random.sample(shapes.scenes(), 20) if shapes.seen(other) != shapes.seen(scene)]
        assert not any(shapes.shows(picture, other) for other in others)
    assert shapes.look(Image.new("RGB", (128, 128), "red")) is None


def test_unseen_prompts_come_out_as_often_right_as_the_card_says(shapes: ModuleType, model: Any) -> None:
    scenes = Random(1).sample([scene for scene in shapes.scenes() if scene.unseen], 100)
    right = 0
    for seed, scene in enumerate(scenes):
        (picture,) = drawn(model, Job(work="generate", prompt=scene.prompt, seed=seed, **PRESETS))
        assert picture.size == (128, 128)
        right += shapes.shows(picture, scene)
    # The card says 96; other processors round otherwise.
    assert right >= 90


def test_an_edit_keeps_place_and_ground(shapes: ModuleType, model: Any) -> None:
    right = 0
    for seed, place in enumerate(shapes.PLACES):
        before = shapes.draw(shapes.Scene("red", "circle", place, "blue"), Random(seed))
        wanted = shapes.Scene("white", "circle", place, "blue")
        job = Job(work="edit", prompt=wanted.prompt, images=[encoded(before)], strength=0.8, seed=seed, **PRESETS)
        right += shapes.shows(drawn(model, job)[0], wanted)
    assert right >= 4


def test_inpainting_changes_the_masked_part_alone(shapes: ModuleType, model: Any) -> None:
    empty = Image.new("RGB", (128, 128), shapes.COLOURS["blue"])
    mask = Image.new("L", empty.size)
    ImageDraw.Draw(mask).rectangle((8, 8, 80, 80), fill=255)
    wanted, right = shapes.Scene("yellow", "square", "top left", "blue"), 0
    for seed in range(10):
        job = Job(
            work="inpaint", prompt=wanted.prompt, images=[encoded(empty)], mask=encoded(mask), seed=seed, **PRESETS
        )
        (picture,) = drawn(model, job)
        assert picture.getpixel((120, 120)) == shapes.COLOURS["blue"]
        right += shapes.shows(picture, wanted)
    assert right >= 8
