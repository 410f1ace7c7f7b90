"""Images over HTTP, by openai-python as it is, from a fake replica that speaks the contract of the image engine."""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.fakes import FakeUpstream
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.fakes.images import GPU_MS_PER_STEP, SHADE, STEPS, colour, picture
from tests.serving.conftest import KEY
from tests.support.services import RedisServer

pytestmark = pytest.mark.integration

HEADERS = {"Authorization": f"Bearer {KEY}"}
RED_DOT = base64.b64decode(picture((64, 64), (255, 0, 0)))


@pytest.fixture(scope="module")
def gateway(control: FakeControl, redis_server: RedisServer) -> Iterator[GatewayProcess]:
    limits: dict[str, Any] = {"AIIA_GATEWAY_RETRY_S": "3", "AIIA_GATEWAY_HOLD_S": "20"}
    with GatewayProcess(control.url, AIIA_GATEWAY_MAX_BODY="2000000", **limits) as gateway:
        yield gateway


@pytest.fixture
def replica(_upstream: FakeUpstream, control: FakeControl, gateway: GatewayProcess) -> FakeUpstream:
    """The fake replica, well behaved and ready under the id ``painter``."""
    _upstream.control(models=["fake"], step_s=0, nan_image=False, fault="none", fault_times=-1, fault_after=0)
    control.set_model(
        "painter", _upstream.base_url, task="image", engine="diffusers", capabilities=["images"], max_in_flight=8
    )
    control.wait_seen()
    control.forget_usage()
    return _upstream


def opened(image: str | bytes | None) -> Image.Image:
    assert image is not None
    return Image.open(io.BytesIO(base64.b64decode(image) if isinstance(image, str) else image))


def post(gateway: GatewayProcess, path: str = "generations", **fields: Any) -> httpx.Response:
    body = {"model": "painter", "prompt": "a", **fields}
    return httpx.post(f"{gateway.base_url}/images/{path}", json=body, headers=HEADERS, timeout=30)


def test_generations(client: openai.OpenAI, replica: FakeUpstream, control: FakeControl) -> None:
    ours = {"steps": 3, "seed": 5, "scheduler": "euler", "negative_prompt": "blue", "guidance": 4.5}
    answer = client.images.generate(model="painter", prompt="a star", n=2, size="64x128", extra_body=ours)
    assert answer.data is not None
    assert answer.usage is not None
    assert [opened(item.b64_json).getpixel((0, 0)) for item in answer.data] == [colour("a star", s) for s in (5, 6)]
    assert (answer.size, answer.output_format, answer.background) == ("64x128", "png", "opaque")
    assert opened(answer.data[0].b64_json).size == (64, 128)
    ours_of_it = (answer.data[1].model_extra or {})["aiia"]
    assert (ours_of_it["seed"], ours_of_it["recipe"]["job"]["steps"]) == (6, 3)
    assert answer.usage.model_extra == {"gpu_ms": 6 * GPU_MS_PER_STEP, "steps": 6}
    job = replica.requests()[-1]["body"]
    assert {name: job[name] for name in ours} == ours
    assert (job["work"], job["priority"], job["n"]) == ("generate", "api", 2)
    (record,) = control.wait_usage(lambda records: len(records) == 1)
    told = (record["kind"], record["gpu_ms"], record["steps"], record["outcome"], record["completion_tokens"])
    assert told == ("images", 6 * GPU_MS_PER_STEP, 6, "complete", 0)


def test_formats(client: openai.OpenAI, replica: FakeUpstream) -> None:
    for kind, compression in (("png", None), ("jpeg", 30), ("webp", None)):
        more = {} if compression is None else {"output_compression": compression}
        answer = client.images.generate(model="painter", prompt="a", output_format=kind, **more)  # type: ignore[call-overload]
        assert opened(answer.data[0].b64_json).format == kind.upper()
        assert answer.output_format == kind


def test_quality_is_a_share_of_the_models_own_steps(client: openai.OpenAI, replica: FakeUpstream) -> None:
    for quality, effort in (("auto", 1), ("low", 0.5), ("medium", 1), ("high", 1.5), ("hd", 1.5)):
        answer = client.images.generate(model="painter", prompt="a", quality=quality)  # type: ignore[call-overload]
        assert answer.usage.model_extra["steps"] == STEPS * effort
        assert replica.requests()[-1]["body"]["effort"] == effort


def _origin(url: str) -> str:
    return url.partition("/v1")[0]


def test_links_are_signed_and_expire(client: openai.OpenAI, replica: FakeUpstream, control: FakeControl) -> None:
    answer = client.images.generate(model="painter", prompt="a", response_format="url", extra_body={"seed": 1})
    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    assert answer.data[0].b64_json is None
    # Without a key: the link is the permission.
    got = httpx.get(url)
    assert (got.status_code, got.headers["content-type"]) == (200, "image/png")
    assert opened(got.content).getpixel((0, 0)) == colour("a", 1)
    with GatewayProcess(control.url) as second:
        assert httpx.get(url.replace(_origin(url), _origin(second.base_url))).status_code == 200
    path, _, query = url.partition("?")
    other = path.rpartition("/")[0] + "/" + "0" * 32 + ".png"
    later = query.replace("expires=", "expires=9")
    for wrong in (path, other + "?" + query, path + "?" + later, url[:-1], path + "?expires=²&signature=é"):
        refused = httpx.get(wrong)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "invalid_signature")
    with (
        GatewayProcess(
            control.url, REDIS_URL="", AIIA_GATEWAY_IMAGE_TTL_S="1", AIIA_GATEWAY_PUBLIC_URL="https://a.example/"
        ) as own,
        openai.OpenAI(base_url=own.base_url, api_key=KEY) as short,
    ):
        made = short.images.generate(model="painter", prompt="a", response_format="url").data
        assert made is not None
        assert made[0].url is not None
        assert made[0].url.startswith("https://a.example/v1/images/files/")
        here = made[0].url.replace("https://a.example/v1", own.base_url)
        status = httpx.get(here).status_code
        while status == 200:
            status = httpx.get(here).status_code
        assert status == 403


def test_edits_as_a_form(client: openai.OpenAI, replica: FakeUpstream) -> None:
    mask = base64.b64decode(picture((64, 64), (255, 255, 255)))
    ours: dict[str, Any] = {
        "strength": 0.5,
        "loras": [{"name": "x", "weight": 0.5}, {"name": "2", "weight": 1}],
        "seed": 3,
    }
    answer = client.images.edit(
        model="painter", prompt="ä star", image=RED_DOT, mask=mask, n=2, size="64x64", extra_body=ours
    )
    assert answer.data is not None
    assert len(answer.data) == 2
    job = replica.requests()[-1]["body"]
    assert (job["work"], job["prompt"], job["n"], job["seed"], job["strength"]) == ("inpaint", "ä star", 2, 3, 0.5)
    assert job["images"] == [base64.b64encode(RED_DOT).decode()]
    assert job["mask"] == base64.b64encode(mask).decode()
    assert job["loras"] == [{"name": "x", "weight": 0.5}, {"name": "2", "weight": 1.0}]
    unclear = {"loras": [{"name": "x", "weight": 0.5}, {"name": "y"}]}
    with pytest.raises(openai.BadRequestError, match="same fields"):
        client.images.edit(model="painter", prompt="a", image=RED_DOT, extra_body=unclear)
    clear = {"loras": json.dumps([{"name": "x", "weight": 0.5}, {"name": "y"}])}
    client.images.edit(model="painter", prompt="a", image=RED_DOT, extra_body=clear)
    assert replica.requests()[-1]["body"]["loras"] == [{"name": "x", "weight": 0.5}, {"name": "y", "weight": 1.0}]
    client.images.edit(model="painter", prompt="a", image=[RED_DOT, mask])
    job = replica.requests()[-1]["body"]
    assert (job["work"], len(job["images"])) == ("edit", 2)
    client.images.edit(
        model="painter", prompt="a", image=RED_DOT, extra_body={"outpaint": {"left": 64}, "negative_prompt": "7"}
    )
    job = replica.requests()[-1]["body"]
    assert (job["work"], job["outpaint"]["left"], job["negative_prompt"]) == ("outpaint", 64, "7")


def test_edits_as_json(gateway: GatewayProcess, replica: FakeUpstream) -> None:
    image = base64.b64encode(RED_DOT).decode()
    url = f"data:image/png;base64,{image}"
    for fields, work in (
        ({"image": image}, "edit"),
        ({"images": [{"image_url": url}]}, "edit"),
        ({"image": url, "mask": {"image_url": url}}, "inpaint"),
        ({"image": image, "upscale": {"scale": 2.0}, "prompt": ""}, "upscale"),
    ):
        assert post(gateway, "edits", **fields).status_code == 200
        job = replica.requests()[-1]["body"]
        assert (job["work"], job["images"]) == (work, [image])


def test_variations(client: openai.OpenAI, replica: FakeUpstream) -> None:
    answer = client.images.create_variation(model="painter", image=RED_DOT, n=1, size="256x256")
    assert answer.data is not None
    assert opened(answer.data[0].b64_json).size == (256, 256)
    assert replica.requests()[-1]["body"]["work"] == "variation"


def test_an_upscaled_image_tells_its_size(gateway: GatewayProcess, replica: FakeUpstream) -> None:
    image = f"data:image/png;base64,{base64.b64encode(RED_DOT).decode()}"
    answer = post(gateway, "edits", image=image, upscale={"scale": 2.0}, prompt="")
    assert (answer.status_code, answer.json()["size"]) == (200, "128x128"), answer.text


@pytest.mark.parametrize("steps", [None, 9])
@pytest.mark.parametrize("n", [1, 2])
def test_partial_images_are_spread_over_the_steps(
    client: openai.OpenAI, replica: FakeUpstream, steps: int | None, n: int
) -> None:
    asked: Any = {"quality": "high", "extra_body": {"steps": steps}, "n": n}
    seen = list(client.images.generate(model="painter", prompt="a", stream=True, partial_images=2, **asked))
    shades = [opened(event.b64_json).getpixel((0, 0)) for event in seen if event.type.endswith("partial_image")]
    assert [round(shade[0] / SHADE) for shade in shades] == ([3, 6] if steps else [2, 4])


@pytest.mark.parametrize("steps", [None, 9])
def test_a_stream_with_partial_images(client: openai.OpenAI, replica: FakeUpstream, steps: int | None) -> None:
    stream = client.images.generate(
        model="painter", prompt="a", stream=True, partial_images=2, output_format="webp", extra_body={"steps": steps}
    )
    seen: list[Any] = list(stream)
    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert [event.type for event in seen] == [partial, partial, completed]
    assert [event.partial_image_index for event in seen if event.type == partial] == [0, 1]
    assert {opened(event.b64_json).format for event in seen} == {"WEBP"}
    last = seen[-1]
    assert last.type == completed
    assert last.usage.model_extra is not None
    assert (last.size, last.usage.model_extra["steps"]) == ("64x64", steps or STEPS)
    edits = client.images.edit(model="painter", prompt="a", image=RED_DOT, stream=True, n=2)
    assert [event.type for event in edits] == ["image_edit.completed"] * 2


def test_the_workers_own_events_in_the_same_stream(gateway: GatewayProcess, replica: FakeUpstream) -> None:
    headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}", "X-Aiia-Events": "1", "X-Aiia-User": "alice"}
    body = {"model": "painter", "prompt": "a", "stream": True, "previews": 2, "steps": 4}
    answer = httpx.post(f"{gateway.base_url}/images/generations", json=body, headers=headers)
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    step, preview = "aiia.step", "aiia.preview"
    drawn = [step, step, preview, step, step, preview]
    assert names == ["aiia.waiting", "aiia.loading", *drawn, "aiia.decoding", "image_generation.completed"]
    assert replica.requests()[-1]["body"]["priority"] == "interactive"
    data = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert data[2] == {"type": "step", "step": 1, "steps": 4, "eta_s": 0.0}


@pytest.mark.parametrize("fault", ["die", "no_done", "refuse"])
def test_a_dead_replica_s_image_is_made_again_from_its_seed(
    client: openai.OpenAI, replica: FakeUpstream, control: FakeControl, fault: str
) -> None:
    before = len(replica.requests())
    replica.control(fault=fault, fault_after=2, fault_times=2)
    answer = client.images.generate(model="painter", prompt="a", n=2)
    assert answer.data is not None
    asked = [request["body"] for request in replica.requests()[before:]]
    assert len(asked) == 3
    assert len({job["seed"] for job in asked}) == 1
    seed = asked[0]["seed"]
    assert [opened(item.b64_json).getpixel((0, 0)) for item in answer.data] == [colour("a", seed + i) for i in (0, 1)]
    (record,) = control.wait_usage(lambda records: len(records) == 1)
    assert (record["outcome"], record["steps"]) == ("complete", 2 * STEPS)


def test_long_images_are_made_again_though_not_for_ever(replica: FakeUpstream, control: FakeControl) -> None:
    with (
        GatewayProcess(control.url, AIIA_GATEWAY_RETRY_S="0.2") as own,
        openai.OpenAI(base_url=own.base_url, api_key=KEY, max_retries=0) as client,
    ):
        replica.control(fault="die", fault_after=3, fault_times=2, step_s=0.1)
        assert client.images.generate(model="painter", prompt="a").data
        replica.control(fault="die", fault_after=3, fault_times=-1, step_s=0.1)
        with pytest.raises(openai.InternalServerError) as told:
            client.images.generate(model="painter", prompt="a")
        assert told.value.code == "image_failed"


def test_a_failed_image_says_what_to_change(client: openai.OpenAI, replica: FakeUpstream) -> None:
    replica.control(nan_image=True)
    with pytest.raises(openai.UnprocessableEntityError) as told:
        client.images.generate(model="painter", prompt="a")
    assert (told.value.code, told.value.param) == ("nan_image", "loras")
    assert "Leave the LoRA out." in told.value.message
    with pytest.raises(openai.APIError, match="NaN"):
        list(client.images.generate(model="painter", prompt="a", stream=True))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_ends_the_work(
    gateway: GatewayProcess, replica: FakeUpstream, control: FakeControl, stream: bool
) -> None:
    replica.control(step_s=0.2)
    before = replica.stats()["disconnected"]
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=0) as client:
        asking: asyncio.Task[Any] = asyncio.create_task(
            client.images.generate(model="painter", prompt="a", stream=stream, extra_body={"steps": 1000})
        )
        assert (await asyncio.to_thread(replica.wait_running, 1))["running"] == 1
        if stream:
            await (await asking).close()
        else:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert (await asyncio.to_thread(replica.wait_running, 0))["running"] == 0
    assert replica.stats()["disconnected"] == before + 1
    (record,) = await asyncio.to_thread(control.wait_usage, lambda records: len(records) == 1)
    assert record["outcome"] == "cancelled"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": "a" * 50_000}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"n": "many"}, "n"),
    ({"size": "0x64"}, "size"),
    ({"size": "64"}, "size"),
    ({"size": "65x64"}, "size"),
    ({"size": "64x99999999"}, "size"),
    ({"size": "1\uff12\uff18x64"}, "size"),
    ({"size": "1024x1024"}, "size"),
    ({"steps": 0}, "steps"),
    ({"steps": 10**9}, "steps"),
    ({"steps": 1.5}, "steps"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**32}, "seed"),
    ({"guidance": 1e9}, "guidance"),
    ({"scheduler": "../../etc"}, "scheduler"),
    ({"scheduler": "none-such"}, "scheduler"),
    ({"loras": [{"name": "../x"}]}, "loras"),
    ({"loras": [{"name": "x"}] * 17}, "loras"),
    ({"control": [{"name": "x"}]}, "control"),
    ({"control": [{"name": "x", "image": "http://169.254.169.254/"}]}, "control"),
    ({"background": "transparent"}, "background"),
    ({"quality": "best"}, "quality"),
    ({"output_format": "svg"}, "output_format"),
    ({"output_compression": 50}, "output_compression"),
    ({"output_format": "jpeg", "output_compression": 101}, "output_compression"),
    ({"partial_images": 2}, "partial_images"),
    ({"partial_images": 4, "stream": True}, "partial_images"),
    ({"stream": True, "response_format": "url"}, "response_format"),
    ({"negative_prompt": "a" * 50_000}, "negative_prompt"),
    ({"image": "x"}, "image"),
    ({"work": "edit"}, "work"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_hostile_generations(
    gateway: GatewayProcess, replica: FakeUpstream, fields: dict[str, Any], param: str
) -> None:
    answer = post(gateway, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "image"),
        ({"image": []}, "image"),
        ({"image": "https://example.org/a.png"}, "image"),
        ({"image": {"image_url": "file:///etc/passwd"}}, "image"),
        ({"image": {"file_id": "a"}}, "image"),
        ({"image": "data:text/html;base64,AAAA"}, "image"),
        ({"image": "AAAA", "images": ["AAAA"]}, "image"),
        ({"image": ["AAAA"] * 17}, "image"),
        ({"image": "AAAA", "prompt": ""}, "prompt"),
        ({"image": "AAAA", "strength": 2}, "strength"),
        ({"image": "AAAA", "mask": "AAAA", "outpaint": {"left": 8}}, "mask"),
        ({"image": "AAAA", "outpaint": {"left": -8}}, "outpaint"),
        ({"image": "AAAA", "upscale": {"scale": 1000}}, "upscale"),
    ],
)
def test_hostile_edits(gateway: GatewayProcess, replica: FakeUpstream, fields: dict[str, Any], param: str) -> None:
    answer = post(gateway, "edits", **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] == param


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--b\r\n"),
        (FORM, b""),
        (FORM, b"--c\r\n\r\n"),
        (FORM, b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n\xff\xfe\r\n--b--\r\n'),
        (FORM, b'--b\r\nContent-Disposition: form-data; name="a[b][c][d]"\r\n\r\n1\r\n--b--\r\n'),
        (FORM, b'--b\r\nContent-Disposition: form-data; name="loras"\r\n\r\n' + b"[" * 100_000 + b"\r\n--b--\r\n"),
        (FORM, b'--b\r\nContent-Disposition: form-data; name="[]"\r\n\r\n1\r\n' * 500 + b"--b--\r\n"),
        (FORM, b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n' * 2 + b"--b--\r\n"),
        (FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--\r\n"),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"n": NaN}'),
        ("application/json", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_hostile_bodies(gateway: GatewayProcess, replica: FakeUpstream, kind: str, body: bytes) -> None:
    headers = {**HEADERS, "Content-Type": kind}
    answer = httpx.post(f"{gateway.base_url}/images/edits", content=body, headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_beyond_the_bound(gateway: GatewayProcess, replica: FakeUpstream) -> None:
    assert post(gateway, "edits", image="A" * 2_000_001).status_code == 413


def test_a_model_that_draws_nothing(gateway: GatewayProcess, upstream: FakeUpstream, control: FakeControl) -> None:
    control.set_model("writer", upstream.base_url, capabilities=["chat"])
    control.wait_seen()
    answer = post(gateway, model="writer")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_by_model")


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = [
    *("prompt", "n", "size", "quality", "image", "images", "mask", "steps", "seed", "loras", "control", "outpaint"),
    *("output_format", "output_compression", "strength", "upscale", "scheduler", "guidance", "response_format"),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["generations", "edits", "variations"]),
    fields=st.dictionaries(st.sampled_from(_FIELDS), _anything, max_size=4),
)
def test_whatever_is_sent_has_an_answer_of_the_right_shape(
    gateway: GatewayProcess, replica: FakeUpstream, path: str, fields: dict[str, Any]
) -> None:
    image = {} if path == "generations" else {"image": "AAAA"}
    answer = post(gateway, path, **{**image, **fields})
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["message"]
