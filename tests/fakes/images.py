"""How the fake draws: an image replica's contract, with flat pictures whose colour follows from seed and prompt."""

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image

from aiia_serving.images.job import Job
from aiia_serving.images.problem import ImageProblem

STEPS = 4
SHADE = 20
SIDE = 64
GPU_MS_PER_STEP = 10
SCHEDULERS = ("default", "euler")

CAPABILITIES: dict[str, Any] = {
    "family": "fake",
    "sizes": [f"{SIDE}x{SIDE}"],
    "limits": {"max_side": 512},
    "defaults": {"steps": STEPS, "guidance": 7.5, "scheduler": "default", "width": SIDE, "height": SIDE},
    "schedulers": list(SCHEDULERS),
    "works": ["generate", "edit", "inpaint", "outpaint", "variation", "upscale"],
    "loras": [],
    "controls": [],
    "upscalers": [],
    "preprocessors": [],
}


def colour(prompt: str, seed: int) -> tuple[int, int, int]:
    red, green, blue, *_ = hashlib.sha256(f"{prompt}\0{seed}".encode()).digest()
    return red, green, blue


def picture(size: tuple[int, int], shade: tuple[int, int, int], kind: str = "PNG") -> str:
    out = io.BytesIO()
    Image.new("RGB", size, shade).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


def accepted(data: dict[str, Any]) -> Job:
    """The job with its presets. Raises ``ImageProblem`` as a replica does before anything starts."""
    job = Job.parse(data)
    if job.scheduler not in (None, *SCHEDULERS):
        raise ImageProblem(f"There is no scheduler '{job.scheduler}'.", code="unknown_scheduler", param="scheduler")
    if max(job.width or 0, job.height or 0) > 512:
        raise ImageProblem("At most 512 pixels.", code="size_too_large", param="size", advice="Ask for less.")
    if job.work == "upscale":
        return job.model_copy(update={"seed": job.seed or 0})
    steps = job.steps or max(1, round(STEPS * job.effort))
    resolved = {"width": job.width or SIDE, "height": job.height or SIDE, "steps": steps}
    return job.model_copy(update={**resolved, "seed": job.seed or 0})


async def drawing(job: Job, step_s: float, failing: bool) -> AsyncIterator[tuple[dict[str, Any], int]]:
    """Events, and how many steps each one is. ``failing`` ends with an error instead of the images.

    The shade of a preview tells its step.
    """
    steps, size = job.steps or 1, (job.width or SIDE, job.height or SIDE)
    if job.work == "upscale":
        size = (round(SIDE * (job.scale or 4)),) * 2
    yield {"type": "waiting", "position": 1}, 0
    yield {"type": "loading", "what": "fake", "eta_s": None}, 0
    for step in range(1, steps + 1):
        await asyncio.sleep(step_s)
        told = {"step": step * job.n, "steps": steps * job.n, "eta_s": (steps - step) * step_s}
        yield {"type": "step", **told}, 1
        if job.previews and step % job.previews == 0:
            image = picture((16, 16), (step * SHADE,) * 3, "JPEG")
            yield {"type": "preview", "index": 0, "step": step, "image": image}, 0
    yield {"type": "decoding"}, 0
    if failing:
        problem = ImageProblem(
            "The image came out as NaN.", code="nan_image", status=422, param="loras", advice="Leave the LoRA out."
        )
        yield problem.event(), 0
        return
    for index in range(job.n):
        seed = job.image_seed(index)
        recipe = {"job": {**job.model_dump(exclude={"images", "mask"}), "seed": seed, "n": 1}, "model": "fake"}
        image = picture(size, colour(job.prompt, seed))
        yield {"type": "image", "index": index, "image": image, "seed": seed, "recipe": recipe}, 0
    yield {"type": "usage", "gpu_ms": steps * job.n * GPU_MS_PER_STEP, "steps": steps * job.n}, 0
