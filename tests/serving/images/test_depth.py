"""Control images of depth, by a real model of transformers with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aiia_serving.images.job import Job
from aiia_serving.images.model import Model
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.sources import load_model
from aiia_serving.images.works import assemble, prepare
from tests.support import pipelines
from tests.support.pictures import encoded, scene

pytestmark = pytest.mark.serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pipelines.make_controlled(tmp_path_factory.mktemp("depth"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    depths = {"depth": folder / "depth", "none": folder / "model" / "vae"}
    return load_model(folder / "model", controls={"near": folder / "control"}, depths=depths)


def job(preprocessor: str | None, image: Image.Image) -> Job:
    control = {"name": "near", "image": encoded(image), "preprocessor": preprocessor}
    fields = {"work": "generate", "prompt": "a star", "steps": 2, "seed": 7, "width": 32, "height": 32}
    return Job.parse({**fields, "control": [control]})


def draw(model: Model, wanted: Job) -> Image.Image:
    return assemble(model, prepare(wanted, model).calls).run()[0]


def test_depth_is_what_transformers_sees(model: Model, folder: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation, pipeline

    plain = pipeline(
        "depth-estimation",
        model=AutoModelForDepthEstimation.from_pretrained(folder / "depth"),
        image_processor=AutoImageProcessor.from_pretrained(folder / "depth"),
    )
    wanted = np.asarray(plain(scene(32, 32))["depth"].convert("RGB"))
    found = model.depths.image("depth", scene(32, 32), torch.float32, "cpu")
    assert np.abs(np.asarray(found).astype(int) - wanted.astype(int)).max() <= 1


def test_it_counts_as_a_control_image(model: Model) -> None:
    assert "depth" in model.capabilities()["preprocessors"]
    seen = model.depths.image("depth", scene(32, 32), torch.float32, "cpu")
    assert draw(model, job("depth", scene(32, 32))).tobytes() == draw(model, job(None, seen)).tobytes()
    assert model.depths.modules[0] in list(model.modules())


def test_what_is_no_depth_model_is_refused(model: Model) -> None:
    with pytest.raises(ImageProblem) as refused:
        draw(model, job("none", scene()))
    assert (refused.value.code, refused.value.status) == ("broken_preprocessor", 422)
    with pytest.raises(ImageProblem, match="blur, invert, depth, none"):
        draw(model, job("pose", scene()))
