"""What a job leaves open, decided by the family's presets, and what the family does not do, refused."""

from typing import TYPE_CHECKING, Any, TypeVar

from aiia_serving.images.families import Limits
from aiia_serving.images.job import Job
from aiia_serving.images.problem import ImageProblem

if TYPE_CHECKING:
    from aiia_serving.images.model import Model

_T = TypeVar("_T")


def settled(value: _T | None) -> _T:
    """A value that is known by now, as fields of a resolved job are."""
    if value is None:
        raise ValueError("this is known only after the job was resolved")
    return value


def resolve(job: Job, model: "Model", source: tuple[int, int] | None) -> Job:
    """The job with nothing left open; ``source`` is the size (width, height) of the image that it works on.

    Raises ImageProblem that names the field at fault.
    """
    defaults, limits = model.family.defaults, _room(job, model.family.limits)
    if job.work not in model.works:
        works = ", ".join(model.works)
        raise ImageProblem(
            f"This model does not do '{job.work}'. It does: {works}.", code="unsupported_by_model", param="work"
        )
    _fields(job)
    width, height = _size(job, model, source)
    filled: dict[str, Any] = {
        "width": width,
        "height": height,
        "steps": job.steps if job.steps is not None else _own_steps(job, model),
        "guidance": float(job.guidance if job.guidance is not None else defaults.guidance),
        "scheduler": job.scheduler or defaults.scheduler,
        "negative_prompt": job.negative_prompt or "",
    }
    if job.work in defaults.strength:
        filled["strength"] = float(job.strength if job.strength is not None else defaults.strength[job.work])
    job = job.model_copy(update=filled)
    _bounds(job, limits)
    _support(job, model)
    return job


def _own_steps(job: Job, model: "Model") -> int:
    return min(model.family.limits.max_steps, max(1, round(model.family.defaults.steps * job.effort)))


def _fields(job: Job) -> None:
    """Fields that a work has no use for are mistakes."""
    for name in ("upscaler", "scale"):
        if getattr(job, name) is not None:
            raise ImageProblem(f"{name} belongs to upscaling only.", code="unexpected_field", param=name)
    if job.work == "generate" and job.strength is not None:
        raise ImageProblem("To draw from text there is no strength.", code="unexpected_field", param="strength")
    borders = job.outpaint.model_dump().values() if job.outpaint else ()
    if job.work == "outpaint":
        if not any(borders):
            raise ImageProblem(
                "Say how many pixels to add, and at which sides.", code="missing_field", param="outpaint"
            )
        if job.width is not None or job.height is not None:
            raise ImageProblem(
                "The size of an outpainted image follows from its borders.", code="unexpected_field", param="width"
            )
    elif job.outpaint is not None:
        raise ImageProblem("Borders belong to outpainting only.", code="unexpected_field", param="outpaint")


def _size(job: Job, model: "Model", source: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of the result."""
    if source is None:
        width, height = model.size
        return job.width or width, job.height or height
    if job.outpaint is not None:
        to = job.outpaint
        return source[0] + to.left + to.right, source[1] + to.top + to.bottom
    if job.width is not None and job.height is not None:
        return job.width, job.height
    if job.width is not None:
        return job.width, max(1, round(source[1] * job.width / source[0]))
    if job.height is not None:
        return max(1, round(source[0] * job.height / source[1])), job.height
    return _fitted(source, _room(job, model.family.limits))


def _room(job: Job, limits: Limits) -> Limits:
    """The limits of the image; further images beside it take as much again."""
    if len(job.images) < 2:
        return limits
    return limits.model_copy(update={"max_pixels": limits.max_pixels // 2, "max_side": limits.max_side // 2})


def _fitted(source: tuple[int, int], limits: Limits) -> tuple[int, int]:
    """The source's size, made smaller or larger, in proportion, until it is within the limits."""
    width, height = source
    down = min(1.0, limits.max_side / max(source), (limits.max_pixels / (width * height)) ** 0.5)
    up = max(1.0, limits.min_side / min(source))
    factor = down if down < 1 else up
    return max(1, int(width * factor)), max(1, int(height * factor))


def _bounds(job: Job, limits: Limits) -> None:
    sized = "outpaint" if job.work == "outpaint" else None
    for name in ("width", "height"):
        value = getattr(job, name)
        if not limits.min_side <= value <= limits.max_side:
            raise _out(
                f"The {name} is {value} pixels; this model draws {limits.min_side} to {limits.max_side}.", sized or name
            )
    if settled(job.width) * settled(job.height) > limits.max_pixels:
        raise _out(
            f"{job.width} x {job.height} are more pixels than this model draws: {limits.max_pixels / 1e6:.1f} million.",
            sized or "width",
        )
    for name, most in (("steps", limits.max_steps), ("n", limits.max_n), ("guidance", limits.max_guidance)):
        if getattr(job, name) > most:
            raise _out(f"{name} is {getattr(job, name)}; this model takes at most {most}.", name)


def _support(job: Job, model: "Model") -> None:
    known = model.family.schedulers
    if job.scheduler not in known:
        raise ImageProblem(
            f"There is no scheduler '{job.scheduler}'. Schedulers: {', '.join(known)}.",
            code="unknown_scheduler",
            param="scheduler",
        )
    names = [lora.name for lora in job.loras]
    if len(set(names)) < len(names):
        raise ImageProblem("The same LoRA is named twice.", code="invalid_value", param="loras")
    if job.control and job.negative_prompt and not model.guided and job.work != "generate":
        raise ImageProblem(
            "This model takes no negative prompt together with a ControlNet and an image.",
            code="unsupported_by_model",
            param="negative_prompt",
        )


def _out(message: str, param: str) -> ImageProblem:
    return ImageProblem(message, code="out_of_bounds", param=param)
