"""ControlNets and what makes their images: which are taken, in which precision, and from which files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

from aiia_serving.images.controls import preprocess
from aiia_serving.images.engine.placement import Placed, Placement
from aiia_serving.images.job import Job
from aiia_serving.images.parts import Shelf
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.sources import load_model
from aiia_serving.images.works import assemble, prepare
from tests.support import pipelines
from tests.support.pictures import encoded, scene

pytestmark = pytest.mark.serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pipelines.make_controlled(tmp_path_factory.mktemp("controls"))


def job(name: str = "edges", preprocessor: str = "canny") -> Job:
    control = {"name": name, "image": encoded(scene()), "preprocessor": preprocessor}
    size = {"width": 32, "height": 32}
    return Job.parse({"work": "generate", "prompt": "a star", "steps": 2, "seed": 7, "control": [control], **size})


def test_what_is_loaded_while_another_run_is_widened_has_the_chosen_precision(folder: Path) -> None:
    model = load_model(
        folder / "model",
        dtype=torch.bfloat16,
        controls={"edges": folder / "control"},
        depths={"depth": folder / "depth"},
    )
    placed = Placed(model, Placement("cpu", "bfloat16"))
    placed.widen()
    batch = assemble(model, prepare(job(preprocessor="depth"), model).calls)
    batch.kwargs()
    placed.narrow()
    assert {weight.dtype for module in model.modules() for weight in module.parameters()} == {torch.bfloat16}
    # Once they are there they are widened with the rest.
    placed.widen()
    assert batch.run()[0].size == (32, 32)


@pytest.mark.parametrize(("base", "other"), [("sd15", "sdxl"), ("sdxl", "sd15")])
def test_a_controlnet_of_another_family_is_refused(base: str, other: str, tmp_path: Path) -> None:
    """It has the same class, and is found wrong only by how it is built."""
    control = pipelines.make_control(other, tmp_path / "control")
    shelf = Shelf()
    model, its_own = (
        load_model(pipelines.make(family, tmp_path / family), controls={"edges": control}, shelf=shelf)
        for family in (base, other)
    )
    for _ in range(2):
        with pytest.raises(ImageProblem, match="made for another kind of model") as refused:
            assemble(model, prepare(job(), model).calls)
        assert (refused.value.code, refused.value.status) == ("broken_control", 422)
    assert assemble(its_own, prepare(job(), its_own).calls).run()[0].size == (32, 32)


@pytest.mark.parametrize("channels", [4, 9])
def test_a_controlnet_of_one_file_is_built_as_the_base_says(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = ControlNetModel.from_unet(pipelines.build("sd15").unet)
    plain.save_pretrained(tmp_path / "control")
    files = {"edges": tmp_path / "control" / "diffusion_pytorch_model.safetensors"}
    model = load_model(pipelines.make("sd15", tmp_path / "model", in_channels=channels), controls=files)
    found = model.controls.get("edges", model.network, torch.float32, "cpu")
    wanted = plain.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    assert all(torch.equal(weight, wanted[name]) for name, weight in found.state_dict().items())


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_a_controlnet_of_one_file_that_is_built_otherwise_wants_its_folder(family: str, tmp_path: Path) -> None:
    control = pipelines.make_control(family, tmp_path / "control") / "diffusion_pytorch_model.safetensors"
    model = load_model(pipelines.make(family, tmp_path / "model"), controls={"edges": control})
    with pytest.raises(ImageProblem, match="give a folder with its config") as refused:
        assemble(model, prepare(job(), model).calls)
    assert refused.value.code == "broken_control"


def test_preprocessors_make_of_an_image_what_they_are_called() -> None:
    """A dark square on white: its edges, as thick lines in white on black; its shades spread, and turned around."""
    image = Image.new("RGB", (64, 64), "white")
    image.paste((40, 40, 40), (16, 16, 48, 48))
    canny, scribble, blur, invert = (
        np.asarray(preprocess(image, name, "control[0].preprocessor")).astype(int)
        for name in ("canny", "scribble", "blur", "invert")
    )
    assert set(np.unique(scribble)) == {0, 255}
    assert scribble[32, 32].max() == scribble[2, 2].max() == 0
    assert scribble[32, 12:21].max() == 255
    assert (scribble > 0).sum() > 1.5 * (canny > 0).sum()
    assert 40 < blur[16, 32, 0] < 255
    assert np.abs(np.diff(blur[:, 32, 0])).max() < 30
    assert (invert == 255 - np.asarray(image)).all()
