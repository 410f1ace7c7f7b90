"""The recipe of an image: what makes the same pixels again, on the same hardware."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiia_serving.images.model import Model
from aiia_serving.images.works import Call, digest

_PACKAGES = ("aiia", "torch", "diffusers", "transformers", "peft")


def recipe(call: Call, model: Model, precision: str) -> dict[str, Any]:
    """The resolved job as it makes this one image alone (``n`` 1, its own seed), the model and the versions.

    ``precision`` is what it was computed in, such as ``bfloat16``.

    Images are named by the SHA-256 of their base64 text instead of being repeated.
    """
    job = call.job.model_dump(exclude={"request_id", "priority", "previews", "effort"})
    job |= {"seed": call.seed, "n": 1, "images": [digest(image) for image in call.job.images]}
    if call.job.mask is not None:
        job["mask"] = digest(call.job.mask)
    job["control"] = [{**control.model_dump(), "image": digest(control.image)} for control in call.job.control]
    return {
        "job": job,
        "model": model.id,
        "family": model.family.name,
        "precision": precision,
        "device": model.device.type,
        "versions": _versions(),
    }


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
