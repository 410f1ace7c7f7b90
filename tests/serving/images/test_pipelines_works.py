"""Every kind of work by real pipelines of diffusers, of each family, tiny and with random weights."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from aiia_serving.images.job import Job
from aiia_serving.images.model import Model
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.recipe import recipe
from aiia_serving.images.sources import load_model
from aiia_serving.images.works import assemble, prepare
from tests.support import pipelines
from tests.support.pictures import encoded, hole, scene

pytestmark = pytest.mark.serving

SCENE = encoded(scene())
HOLE = encoded(hole())
WORKS: dict[str, dict[str, Any]] = {
    "generate": {"width": 32, "height": 32},
    "edit": {"images": [SCENE]},
    "inpaint": {"images": [SCENE], "mask": HOLE},
    "outpaint": {"images": [SCENE], "outpaint": {"left": 6, "bottom": 3}},
    "variation": {"images": [SCENE]},
}
SIZES = {"generate": (32, 32), "outpaint": (46, 39)}
CANNY = {"name": "edges", "image": SCENE, "preprocessor": "canny"}
SOFT = {"name": "more", "image": SCENE, "preprocessor": "softedge", "weight": 0.7, "end": 0.6}
EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two": {"n": 2},
    "lora": {"loras": [{"name": "style"}]},
    "loras": {"loras": [{"name": "style", "weight": 0.5}, {"name": "other", "weight": -0.5}]},
    "control": {"control": [CANNY]},
    "controls": {"control": [CANNY, SOFT], "n": 2},
    "all": {"control": [CANNY], "loras": [{"name": "style"}], "n": 2},
}


@pytest.fixture(scope="module", params=pipelines.FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.set_num_threads(1)
    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    control = pipelines.make_control(family, folder / "control")
    lost = "unet" if family == "flux" else "transformer"
    save_file(
        {f"{lost}.blocks.9.to_q.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}, folder / "lost.safetensors"
    )
    broken = folder / "broken.safetensors"
    broken.write_bytes(pipelines.make_lora(family, folder / "style.safetensors", scale=3).read_bytes()[:-100])
    other = "sdxl" if family == "flux" else "flux"
    return load_model(
        pipelines.make(family, folder / "model"),
        loras={
            "style": folder / "style.safetensors",
            "other": pipelines.make_lora(family, folder / "other.safetensors", seed=5, scale=3),
            "broken": broken,
            "lost": folder / "lost.safetensors",
            "foreign": pipelines.make_lora(other, folder / "foreign.safetensors"),
            "nan": pipelines.make_lora(family, folder / "nan.safetensors", scale=float("nan")),
        },
        controls={"edges": control, "more": control, "none": folder / "model" / "vae"},
    )


def job(work: str = "generate", **fields: Any) -> Job:
    return Job.parse({"work": work, "prompt": "a star", "steps": 4, "seed": 7, **WORKS[work], **fields})


def draw(model: Model, wanted: Job) -> list[Image.Image]:
    """The job's images, all that can be in one batch together."""
    calls = prepare(wanted, model).calls
    if calls[0].key is None:
        return [image for call in calls for image in assemble(model, [call]).run()]
    return assemble(model, calls).run()


def pixels(image: Image.Image) -> Any:
    return np.asarray(image).astype(int)


def differ(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of a channel."""
    return int(np.abs(pixels(one) - pixels(other)).max())


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("work", WORKS)
def test_every_work_has_its_size_and_its_steps(model: Model, work: str, extra: str) -> None:
    ready = prepare(job(work, **EXTRAS[extra]), model)
    steps: list[int] = []

    def count(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return tensors

    calls = ready.calls if ready.calls[0].key else ready.calls[:1]
    images = assemble(model, calls).run(count)
    assert [image.size for image in images] == [SIZES.get(work, (40, 36))] * len(calls)
    assert len(steps) == calls[0].steps


@pytest.mark.parametrize("work", WORKS)
def test_one_seed_is_one_picture(model: Model, work: str) -> None:
    first, second = draw(model, job(work, n=2))
    assert differ(first, draw(model, job(work))[0]) <= 1
    assert differ(second, draw(model, job(work, seed=8))[0]) <= 1
    assert differ(first, second) > 1
    assert draw(model, job(work))[0].tobytes() == draw(model, job(work))[0].tobytes()


def test_it_is_what_plain_diffusers_draws(model: Model) -> None:
    kind = getattr(diffusers, model.family.classes["generate"])
    parts = {name: part for name, part in model.pipe.components.items() if name != "scheduler"}
    if model.family.name == "sd15":
        parts |= {"requires_safety_checker": False}
    pipe = kind(
        **parts, scheduler=type(model.components["scheduler"]).from_config(model.components["scheduler"].config)
    )
    plain = pipe(
        "a star",
        num_inference_steps=4,
        width=32,
        height=32,
        guidance_scale=model.family.defaults.guidance,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    assert draw(model, job())[0].tobytes() == plain.tobytes()


def test_several_requests_in_one_batch_are_each_what_they_are_alone(model: Model) -> None:
    wanted = [job(prompt=prompt, seed=seed) for prompt, seed in [("a star", 1), ("a (red:1.4) circle", 2), ("x", 3)]]
    calls = [call for one in wanted for call in prepare(one, model).calls]
    assert len({call.key for call in calls}) == 1
    for together, one in zip(assemble(model, calls).run(), wanted, strict=True):
        assert differ(together, draw(model, one)[0]) <= 1


@pytest.mark.parametrize("extra", ["plain", "control"])
@pytest.mark.parametrize("work", WORKS)
def test_each_of_a_batch_has_its_own_guidance(model: Model, work: str, extra: str) -> None:
    """Where it is a pass of its own, and where the networks are told it."""
    wanted = [job(work, guidance=guidance, **EXTRAS[extra]) for guidance in (2.0, 7.5, 12.25)]
    calls = [call for one in wanted for call in prepare(one, model).calls]
    alone = [draw(model, one)[0] for one in wanted]
    for together, one in zip(assemble(model, calls).run(), alone, strict=True):
        assert differ(together, one) <= 1
    assert min(differ(alone[0], other) for other in alone[1:]) > 1
    # What one batch was told is not told the next.
    assert draw(model, wanted[0])[0].tobytes() == alone[0].tobytes()


@pytest.mark.parametrize("change", [{"steps": 5}, {"width": 40}, {"guidance": 1.0}, {"scheduler": "euler"}])
def test_what_differs_in_kind_is_no_batch(model: Model, change: dict[str, Any]) -> None:
    if "guidance" in change and not model.guided:
        pytest.skip("its guidance is never off")
    calls = [*prepare(job(), model).calls, *prepare(job(**change), model).calls]
    with pytest.raises(ValueError, match="equal keys"):
        assemble(model, calls)


@pytest.mark.parametrize("work", ["generate", "edit"])
def test_those_of_one_canvas_follow_each_its_own_control_image(model: Model, work: str) -> None:
    """It is fitted to the result's size, which may be smaller than what is computed."""
    sizes = [{"width": 32, "height": height} for height in (25, 32)]
    plain, held = (
        [prepare(job(work, **size, **more), model).calls[0] for size in sizes] for more in ({}, {"control": [CANNY]})
    )
    assert len({call.canvas for call in (*plain, *held)}) == 1
    assert len({call.key for call in plain}) == 1
    assert len({call.pictures.controls[0].tobytes() for call in held}) == 2
    assert len({call.key for call in held}) == 2


@pytest.mark.parametrize("work", ["inpaint", "outpaint"])
def test_pixels_outside_the_mask_stay(model: Model, work: str) -> None:
    (image,) = draw(model, job(work))
    if work == "inpaint":
        kept = pixels(hole()) == 0
        assert (pixels(image)[kept] == pixels(scene())[kept]).all()
        assert (pixels(image)[~kept] != pixels(scene())[~kept]).any()
    else:
        assert image.crop((6, 0, 46, 36)).tobytes() == scene().tobytes()


@pytest.mark.parametrize(("work", "size"), [("edit", (40, 36)), ("inpaint", (40, 36)), ("outpaint", (46, 39))])
def test_further_images_are_seen_and_only_the_first_is_painted(model: Model, work: str, size: tuple[int, int]) -> None:
    red, blue = (encoded(Image.new("RGB", (24, 50), shade)) for shade in ("red", "blue"))
    made = {}
    for name, others in {"one": [red], "other": [blue], "both": [red, blue]}.items():
        wanted = job(work, n=2, images=[SCENE, *others])
        calls = prepare(wanted, model).calls
        both = assemble(model, calls).run()
        assert [image.size for image in both] == [size] * 2
        made[name] = both[0]
        alone = assemble(model, calls[:1]).run()[0]
        assert differ(both[0], alone) <= 1
    assert min(differ(made["one"], made["other"]), differ(made["one"], made["both"])) > 0
    if work == "inpaint":
        kept = np.asarray(hole()) == 0
        assert np.array_equal(pixels(made["one"])[kept], pixels(scene())[kept])


def test_transparent_parts_are_a_mask(model: Model) -> None:
    seen = scene().convert("RGBA")
    seen.putalpha(hole().point(lambda value: 255 - value))
    (image,) = draw(model, job("inpaint", images=[encoded(seen)], mask=None))
    kept = pixels(hole()) == 0
    assert (pixels(image)[kept] == pixels(scene())[kept]).all()


@pytest.mark.parametrize("name", ["default", "euler", "euler-karras", "euler-a", "dpmpp-2m-karras", "unipc", "lcm"])
def test_schedulers_draw_what_they_say_in_as_many_steps(model: Model, name: str) -> None:
    if name not in model.family.schedulers:
        with pytest.raises(ImageProblem) as refused:
            prepare(job(scheduler=name), model)
        assert (refused.value.code, refused.value.param) == ("unknown_scheduler", "scheduler")
        return
    steps: list[int] = []
    calls = prepare(job(scheduler=name), model).calls
    assemble(model, calls).run(lambda _pipe, step, _time, tensors: steps.append(step) or tensors)
    assert len(steps) == calls[0].steps


def test_loras_are_switched_without_a_trace(model: Model) -> None:
    bare = draw(model, job())[0]
    styled = draw(model, job(loras=[{"name": "style"}]))[0]
    weak = draw(model, job(loras=[{"name": "style", "weight": 0.3}]))[0]
    both = draw(model, job(loras=[{"name": "style"}, {"name": "other"}]))[0]
    assert len({image.tobytes() for image in (bare, styled, weak, both)}) == 4
    assert draw(model, job())[0].tobytes() == bare.tobytes()
    assert draw(model, job(loras=[{"name": "style"}]))[0].tobytes() == styled.tobytes()
    assert draw(model, job(loras=[{"name": "style", "weight": 0.0}]))[0].tobytes() == bare.tobytes()


@pytest.mark.parametrize("name", ["foreign", "lost", "nan"])
def test_a_lora_that_does_not_fit_leaves_the_model_as_it_was(model: Model, name: str) -> None:
    bare = draw(model, job())[0]
    batch = assemble(model, prepare(job(loras=[{"name": name}]), model).calls)
    with pytest.raises(ImageProblem) as refused:
        batch.run()
    assert (refused.value.code, refused.value.param) == ("broken_lora", "loras")
    assert draw(model, job())[0].tobytes() == bare.tobytes()


@pytest.mark.parametrize("kind", ["norms", "wide"])
@pytest.mark.parametrize("styled", [False, True])
def test_a_lora_that_changes_the_network_itself_is_refused(kind: Any, styled: bool, tmp_path: Path) -> None:
    """Also beside one that is there already, whose layers are wrapped."""
    loras = {
        "style": pipelines.make_lora("flux", tmp_path / "style.safetensors"),
        "control": pipelines.make_control_lora(tmp_path / "control.safetensors", kind),
    }
    model = load_model(pipelines.make("flux", tmp_path / "flux"), loras=loras)
    bare = draw(model, job())[0]
    names = ["style", "control"] if styled else ["control"]
    with pytest.raises(ImageProblem, match="use a ControlNet") as refused:
        draw(model, job(loras=[{"name": name} for name in names]))
    assert (refused.value.code, refused.value.param, refused.value.status) == ("broken_lora", "loras", 422)
    assert draw(model, job())[0].tobytes() == bare.tobytes()


@pytest.mark.parametrize(("name", "code"), [("broken", "bad_weights"), ("unheard", "unknown_lora")])
def test_a_torn_or_unknown_lora_is_refused_at_once(model: Model, name: str, code: str) -> None:
    with pytest.raises(ImageProblem) as refused:
        prepare(job(loras=[{"name": name}]), model)
    assert refused.value.code == code


def test_control_counts_by_its_weight(model: Model) -> None:
    edges, greys = ({**CANNY, "preprocessor": name} for name in ("canny", "grey"))
    held, other = (draw(model, job(control=[one]))[0] for one in (edges, greys))
    without, neither = (draw(model, job(control=[{**one, "weight": 0.0}]))[0] for one in (edges, greys))
    assert differ(held, other) > 0
    assert differ(held, without) > 0
    assert differ(without, neither) == 0


@pytest.mark.parametrize(("name", "code"), [("none", "broken_control"), ("unheard", "unknown_control")])
def test_what_is_no_controlnet_is_refused(model: Model, name: str, code: str) -> None:
    with pytest.raises(ImageProblem) as refused:
        assemble(model, prepare(job(control=[{**CANNY, "name": name}]), model).calls)
    assert refused.value.code == code


def test_long_prompts_count_to_their_end_and_weights_count(model: Model) -> None:
    start = "a star above a hill, " * 5
    images = [draw(model, job(prompt=start + end))[0] for end in ("blue", "green", "(green)", "(green:1.0)")]
    assert differ(images[0], images[1]) > 0
    assert differ(images[1], images[2]) > 0
    assert images[1].tobytes() == images[3].tobytes()


def test_a_negative_prompt_counts(model: Model) -> None:
    assert differ(draw(model, job())[0], draw(model, job(negative_prompt="dark clouds"))[0]) > 0


def test_a_recipe_draws_the_picture_again(model: Model) -> None:
    calls = prepare(job(n=3, seed=None, loras=[{"name": "style"}]), model).calls
    last = recipe(calls[2], model, "float32")
    again = Job.parse(last["job"])
    assert last["model"] == model.id
    assert last["versions"]["diffusers"] == diffusers.__version__
    assert differ(assemble(model, calls).run()[2], draw(model, again)[0]) <= 1


def test_an_image_of_no_numbers_is_not_handed_out(model: Model) -> None:
    batch = assemble(model, prepare(job(), model).calls)
    with pytest.raises(ImageProblem) as refused:
        batch.finish(np.full((1, 32, 32, 3), np.nan))
    assert refused.value.code == "nan_image"


def test_raising_in_the_callback_ends_it_at_that_step(model: Model) -> None:
    class Enough(Exception):
        pass

    def stop(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            raise Enough
        return tensors

    with pytest.raises(Enough):
        assemble(model, prepare(job(), model).calls).run(stop)
    assert draw(model, job())[0].tobytes() == draw(model, job())[0].tobytes()


def test_schnell_has_presets_of_its_own(tmp_path: Path) -> None:
    model = load_model(pipelines.make("flux", tmp_path / "schnell", guidance_embeds=False))
    ready = prepare(Job.parse({"work": "generate", "prompt": "a star", "width": 32, "height": 32}), model)
    assert (ready.job.steps, ready.job.guidance) == (4, 0.0)
    assert assemble(model, ready.calls).run()[0].size == (32, 32)


def test_a_network_that_inpaints_does_nothing_else(tmp_path: Path) -> None:
    model = load_model(pipelines.make("sd15", tmp_path / "inpainting", in_channels=9))
    assert model.works == ["inpaint", "outpaint", "upscale"]
    assert draw(model, job("inpaint"))[0].size == (40, 36)
    with pytest.raises(ImageProblem) as refused:
        prepare(job(), model)
    assert refused.value.code == "unsupported_by_model"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(pipelines.make("sd3", tmp_path_factory.mktemp("sd3") / "model"))


@pytest.mark.parametrize("work", WORKS)
def test_a_pipeline_of_no_family_does_what_diffusers_has_for_it(other: Model, work: str) -> None:
    assert other.family.name == "other"
    steps: list[int] = []
    calls = prepare(job(work, n=2, negative_prompt="dark"), other).calls
    images = assemble(other, calls).run(lambda _pipe, step, _time, tensors: steps.append(step) or tensors)
    assert [image.size for image in images] == [SIZES.get(work, (40, 36))] * 2
    assert len(steps) == calls[0].steps
    assert differ(images[1], draw(other, job(work, seed=8, negative_prompt="dark"))[0]) <= 1
