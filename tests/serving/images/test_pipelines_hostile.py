"""What callers may send and never get through: each is a clear refusal, and nothing else."""

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from aiia_serving.images import inputs, prompts
from aiia_serving.images.job import WORKS, Job
from aiia_serving.images.model import Model
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.sources import load_model
from aiia_serving.images.works import prepare
from tests.support import pipelines
from tests.support.pictures import encoded, file, hole, scene

pytestmark = pytest.mark.serving

SCENE = encoded(scene())
HOLE = encoded(hole())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("hostile")
    return load_model(
        pipelines.make("sd15", folder / "model"),
        loras={"style": pipelines.make_lora("sd15", folder / "style.safetensors")},
        controls={"edges": pipelines.make_control("sd15", folder / "control")},
    )


def refusal(model: Model, fields: dict[str, Any]) -> ImageProblem:
    with pytest.raises(ImageProblem) as refused:
        prepare(Job.parse({"work": "generate", **fields}), model)
    problem = refused.value
    assert 400 <= problem.status < 500
    assert problem.message
    assert problem.body()["error"]["code"] == problem.code
    return problem


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"work": "paint"}, "invalid_value", "work"),
        ({"unheard": 1}, "unknown_field", "unheard"),
        ({"steps": 0}, "invalid_value", "steps"),
        ({"steps": 999}, "out_of_bounds", "steps"),
        ({"steps": "4"}, "invalid_value", "steps"),
        ({"n": 9}, "out_of_bounds", "n"),
        ({"n": 10**9}, "invalid_value", "n"),
        ({"width": 8}, "out_of_bounds", "width"),
        ({"width": 5000}, "out_of_bounds", "width"),
        ({"width": 1536, "height": 1536}, "out_of_bounds", "width"),
        ({"height": -1}, "invalid_value", "height"),
        ({"guidance": 99.0}, "out_of_bounds", "guidance"),
        ({"guidance": float("nan")}, "invalid_value", "guidance"),
        ({"seed": -1}, "invalid_value", "seed"),
        ({"seed": 2**40}, "invalid_value", "seed"),
        ({"scheduler": "fastest"}, "unknown_scheduler", "scheduler"),
        ({"scheduler": "../../etc"}, "invalid_value", "scheduler"),
        ({"prompt": "a" * 50_000}, "invalid_value", "prompt"),
        ({"prompt": "a" * 9_999}, "prompt_too_long", "prompt"),
        ({"negative_prompt": "a" * 9_999}, "prompt_too_long", "negative_prompt"),
        ({"loras": [{"name": "unheard"}]}, "unknown_lora", "loras[0].name"),
        ({"loras": [{"name": "style"}, {"name": "style"}]}, "invalid_value", "loras"),
        ({"loras": [{"name": "../style"}]}, "invalid_value", "loras[0].name"),
        ({"control": [{"name": "unheard", "image": SCENE}]}, "unknown_control", "control[0].name"),
        ({"control": [{"name": "edges", "image": "AAAA"}]}, "invalid_image", "control[0].image"),
        (
            {"control": [{"name": "edges", "image": SCENE, "preprocessor": "magic"}]},
            "unknown_preprocessor",
            "control[0].preprocessor",
        ),
        ({"images": [SCENE]}, "unexpected_field", "images"),
        ({"mask": HOLE}, "unexpected_field", "mask"),
        ({"strength": 0.5}, "unexpected_field", "strength"),
        ({"scale": 2.0}, "unexpected_field", "scale"),
        ({"outpaint": {"left": 8}}, "unexpected_field", "outpaint"),
        ({"work": "edit"}, "missing_field", "images"),
        ({"work": "variation", "images": [SCENE, SCENE]}, "too_many_images", "images"),
        ({"work": "upscale", "images": [SCENE, SCENE]}, "too_many_images", "images"),
        (
            {"work": "edit", "images": [SCENE, SCENE], "control": [{"name": "edges", "image": SCENE}]},
            "too_many_images",
            "images",
        ),
        ({"work": "edit", "images": [SCENE, "AAAA"]}, "invalid_image", "images[1]"),
        ({"work": "edit", "images": [SCENE, SCENE], "width": 1024, "height": 1024}, "out_of_bounds", "width"),
        ({"scheduler": "lcm", "steps": 51}, "out_of_bounds", "steps"),
        ({"work": "edit", "images": [SCENE], "mask": HOLE}, "unexpected_field", "mask"),
        ({"work": "edit", "images": [SCENE], "strength": 0.0}, "invalid_value", "strength"),
        ({"work": "edit", "images": [SCENE], "strength": 2.0}, "invalid_value", "strength"),
        ({"work": "inpaint", "images": [SCENE]}, "missing_field", "mask"),
        ({"work": "inpaint", "images": [SCENE], "mask": encoded(hole(8, 8))}, "mask_size", "mask"),
        ({"work": "inpaint", "images": [SCENE], "mask": encoded(Image.new("L", (40, 36)))}, "empty_mask", "mask"),
        ({"work": "outpaint", "images": [SCENE]}, "missing_field", "outpaint"),
        ({"work": "outpaint", "images": [SCENE], "outpaint": {"left": 4096}}, "out_of_bounds", "outpaint"),
        ({"work": "upscale", "images": [SCENE], "upscaler": "unheard"}, "unknown_upscaler", "upscaler"),
        ({"work": "upscale", "images": [SCENE], "n": 2}, "invalid_value", "n"),
        (
            {"work": "upscale", "images": [encoded(Image.new("L", (2000, 2000)))], "scale": 8.0},
            "image_too_large",
            "scale",
        ),
    ],
)
def test_a_job_out_of_bounds_is_refused_by_its_field(
    model: Model, fields: dict[str, Any], code: str, param: str
) -> None:
    problem = refusal(model, fields)
    assert (problem.code, problem.param) == (code, param)


def test_steps_that_a_scheduler_does_not_have_are_refused(tmp_path: Path) -> None:
    """Where the first of the trained times is left out, as in Stable Diffusion's own, there is one less."""
    folder = pipelines.make("sd15", tmp_path / "model")
    file_ = folder / "scheduler" / "scheduler_config.json"
    file_.write_text(json.dumps({**json.loads(file_.read_text()), "steps_offset": 1}))
    model = load_model(folder, limits={"max_steps": 1000})
    problem = refusal(model, {"scheduler": "ddim", "steps": 1000})
    assert (problem.code, problem.param) == ("out_of_bounds", "steps")
    assert prepare(Job.parse({"work": "generate", "scheduler": "ddim", "steps": 999}), model).calls


@pytest.mark.parametrize("body", [None, [], "x", 3, {}, {"work": None}])
def test_a_body_that_is_no_job_is_refused(body: object) -> None:
    with pytest.raises(ImageProblem):
        Job.parse(body)


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _moving() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


CORPUS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"\0", "invalid_image"),
    "text": (b"hello", "invalid_image"),
    "gif": (file(scene(), "GIF"), "invalid_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "invalid_image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "invalid_image"),
    "a bomb of pixels": (_png(100_000, 100_000, zlib.compress(bytes(100_000))), "image_too_large"),
    "a bomb of a few pixels": (_png(8000, 8000, zlib.compress(bytes(8_000_000))), "image_too_large"),
    "long and thin": (_png(60_000, 1, zlib.compress(bytes(180_001))), "image_too_large"),
    "less than it says": (_png(900, 900, zlib.compress(b"\0" * 100)), "invalid_image"),
    "no pixels": (_png(0, 0, zlib.compress(b"")), "invalid_image"),
    "torn png": (file(scene())[:-60], "invalid_image"),
    "torn jpeg": (file(scene(), "JPEG")[:-60], "invalid_image"),
    "torn webp": (file(scene(), "WEBP")[:-30], "invalid_image"),
    "moving": (_moving(), "invalid_image"),
    "png and zip": (file(scene()) + b"PK\x03\x04payload", "invalid_image"),
    "jpeg and page": (file(scene(), "JPEG") + b"<script>alert(1)</script>", "invalid_image"),
    "webp and zip": (file(scene(), "WEBP") + b"PK\x03\x04payload", "invalid_image"),
    "page and png": (b"<html>" + file(scene()), "invalid_image"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_bombs_polyglots_and_torn_files_are_refused(name: str) -> None:
    data, code = CORPUS[name]
    with pytest.raises(ImageProblem) as refused:
        inputs.image(base64.b64encode(data).decode(), "images[0]")
    assert (refused.value.code, refused.value.param) == (code, "images[0]")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_pictures_of_all_kinds_are_read(kind: str, mode: str) -> None:
    if mode not in {"PNG": "RGB L P RGBA LA 1 I;16", "JPEG": "RGB L CMYK 1", "WEBP": "RGB RGBA L"}[kind].split():
        pytest.skip("there are no such files")
    image = Image.new("I;16", (9, 7), 65535) if mode == "I;16" else scene(9, 7).convert(mode)
    read = inputs.image("data:image/x;base64," + encoded(image, kind), "images[0]")
    assert (read.mode, read.size) == ("RGB", (9, 7))
    if mode == "I;16":
        assert read.getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_on_its_side_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert inputs.image(encoded(scene(20, 10), "JPEG", exif=exif.tobytes()), "images[0]").size == (10, 20)


@given(data=st.binary(max_size=400), start=st.sampled_from([b"", *(file(scene(9, 7), one) for one in inputs.FORMATS)]))
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_it_is_a_picture_or_a_refusal(data: bytes, start: bytes) -> None:
    half = len(start) // 2
    for content in (start + data, start[:half] + data + start[half:]):
        try:
            read = inputs.image(base64.b64encode(content).decode(), "images[0]")
        except ImageProblem as problem:
            assert problem.status == 400  # noqa: PT017
        else:
            assert read.mode in ("RGB", "RGBA")


NUMBERS = st.one_of(st.none(), st.integers(-10, 10**10), st.floats(), st.booleans(), st.text(max_size=3))


@given(
    fields=st.fixed_dictionaries(
        {"work": st.sampled_from(WORKS), "prompt": st.text(max_size=80)},
        optional={
            "width": NUMBERS,
            "height": NUMBERS,
            "steps": NUMBERS,
            "guidance": NUMBERS,
            "strength": NUMBERS,
            "seed": NUMBERS,
            "n": NUMBERS,
            "scale": NUMBERS,
            "scheduler": st.sampled_from(["euler", "default", "x", None, 3]),
            "images": st.lists(st.sampled_from([SCENE, HOLE, "AAAA", ""]), max_size=2),
            "mask": st.sampled_from([HOLE, SCENE, None, "x"]),
            "negative_prompt": st.text(max_size=20),
            "outpaint": st.dictionaries(st.sampled_from(["left", "top", "x"]), NUMBERS, max_size=2),
            "loras": st.lists(st.fixed_dictionaries({"name": st.text(max_size=5), "weight": NUMBERS}), max_size=2),
            "control": st.lists(
                st.fixed_dictionaries({"name": st.just("edges"), "image": st.just(SCENE), "end": NUMBERS}), max_size=2
            ),
        },
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_job_it_can_start_or_is_a_refusal(model: Model, fields: dict[str, Any]) -> None:
    try:
        ready = prepare(Job.parse(fields), model)
    except ImageProblem as problem:
        assert 400 <= problem.status < 500  # noqa: PT017
    else:
        assert all(call.steps >= 1 and call.width and call.height for call in ready.calls)
        assert len(ready.calls) == ready.job.n


@given(text=st.text(alphabet=st.sampled_from("ab ()[]:\\1.5,"), max_size=60))
def test_brackets_lose_no_letters(text: str) -> None:
    pieces = prompts.parse(text)
    assert all(0 <= piece.weight <= prompts.MAX_WEIGHT for piece in pieces)
    assert [letter for piece in pieces for letter in piece.text if letter in "ab"] == [c for c in text if c in "ab"]


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a (red:1.3) star", [("a ", 1.0), ("red", 1.3), (" star", 1.0)]),
        ("((x))", [("x", 1.21)]),
        ("[dull]", [("dull", 0.909091)]),
        (r"a \(b\)", [("a (b)", 1.0)]),
        ("a (b", [("a (b", 1.0)]),
        ("a) :2)", [("a) :2)", 1.0)]),
        ("(x:999)", [("x", 4.0)]),
        ("(" * 5000 + "x" + ")" * 5000, None),
    ],
)
def test_weights_in_prompts(prompt: str, pieces: list[tuple[str, float]] | None) -> None:
    found = [(piece.text, piece.weight) for piece in prompts.parse(prompt)]
    assert pieces is None or found == pieces
