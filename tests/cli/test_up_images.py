"""`aiia up` on a bare machine draws at once: openai-python, the gateway, Ray Serve and the packaged pipeline."""

import base64
import io
from collections.abc import Iterator
from random import Random
from typing import Any

import openai
import psutil
import pytest
from PIL import Image, ImageDraw

from tests.cli.test_up import run_aiia
from tests.support.instance import Instance
from tests.support.shapes import world

pytestmark = [pytest.mark.serving, pytest.mark.timeout(600)]

MODEL = "aiia-shapes"


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with Instance(tmp_path_factory.mktemp("up")) as instance:
        instance.wait_ready(timeout=240)
        yield instance


@pytest.fixture(scope="module")
def client(instance: Instance) -> Iterator[openai.OpenAI]:
    arguments = ("--data-dir", str(instance.data.path), "--email", "ada@example.com")
    made = run_aiia("admin", "create-user", *arguments, "--password-stdin", "--admin", stdin="correct horse battery\n")
    assert made.returncode == 0, made.stderr
    token = run_aiia("admin", "create-token", *arguments, "--name", "script").stdout.strip()
    # The first image starts the model.
    with openai.OpenAI(base_url=f"{instance.address}/v1", api_key=token, max_retries=0, timeout=400) as client:
        yield client


def opened(image: str | None) -> Image.Image:
    assert image is not None
    return Image.open(io.BytesIO(base64.b64decode(image)))


def data_of(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def test_a_yellow_star_on_a_purple_background(client: openai.OpenAI) -> None:
    shapes = world()
    prompt = "a yellow star on a purple background"
    answer = client.images.generate(model=MODEL, prompt=prompt, n=3, extra_body={"seed": 1})
    assert answer.data is not None
    pictures = [opened(item.b64_json) for item in answer.data]
    assert all(shapes.shows(picture, shapes.Scene("yellow", "star", None, "purple")) for picture in pictures)
    # The same recipe makes the same pixels.
    again = client.images.generate(model=MODEL, prompt=prompt, extra_body={"seed": 1})
    assert again.data is not None
    assert max(high for _, high in _difference(opened(again.data[0].b64_json), pictures[0])) <= 1


def test_a_stream_of_partial_images(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        model=MODEL, prompt="a red circle on a white background", stream=True, partial_images=2
    )
    kinds = [event.type for event in stream]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


def test_an_image_whose_replica_is_killed_comes_all_the_same(instance: Instance, client: openai.OpenAI) -> None:
    asked: Any = {
        "model": MODEL,
        "prompt": "a red cross on a white background",
        "extra_body": {"seed": 7, "steps": 150},
    }
    undisturbed = client.images.generate(**asked).data
    assert undisturbed is not None
    events = client.images.generate(**asked, stream=True, partial_images=3)
    assert next(iter(events)).type == "image_generation.partial_image"
    ours = {process.pid for process in instance.processes()}
    # Passes over processes that end while it looks.
    (replica,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid in ours and f"ServeReplica:{MODEL}" in " ".join(process.info["cmdline"] or ())
    ]
    replica.kill()
    *_, last = events
    assert last.type == "image_generation.completed"
    assert opened(last.b64_json).tobytes() == opened(undisturbed[0].b64_json).tobytes()


def test_edits(client: openai.OpenAI) -> None:
    shapes = world()
    before = shapes.draw(shapes.Scene("red", "circle", None, "blue"), Random(1))
    answer = client.images.edit(
        model=MODEL, image=data_of(before), prompt="a yellow circle on a green background", extra_body={"strength": 0.9}
    )
    assert answer.data is not None
    seen = shapes.look(opened(answer.data[0].b64_json))
    assert seen is not None
    assert seen.background == "green"
    # OpenAI's masks are transparent where the image is painted anew.
    mask = Image.new("RGBA", before.size, "black")
    ImageDraw.Draw(mask).rectangle((0, 0, 127, 99), fill=(0, 0, 0, 0))
    answer = client.images.edit(model=MODEL, image=data_of(before), mask=data_of(mask), prompt="a red circle")
    assert answer.data is not None
    assert (
        opened(answer.data[0].b64_json).crop((0, 110, 128, 128)).tobytes() == before.crop((0, 110, 128, 128)).tobytes()
    )


def test_what_the_model_does_not_take_is_refused(client: openai.OpenAI) -> None:
    for fields in ({"scheduler": "none-such"}, {"steps": 1000}, {"loras": [{"name": "none-such"}]}, {"seed": -1}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(model=MODEL, prompt="a star", extra_body=fields)
        assert str(refused.value.param).split("[")[0].split(".")[0] in fields


def _difference(one: Image.Image, other: Image.Image) -> list[tuple[int, int]]:
    from PIL import ImageChops

    return [tuple(band.getextrema()) for band in ImageChops.difference(one, other).split()]  # type: ignore[misc]
