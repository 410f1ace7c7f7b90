"""From a job to pixels: what is checked, which pipeline does it, with which arguments, and what is done afterwards."""

import hashlib
import inspect
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aiia_serving.images import inputs, prompts
from aiia_serving.images.controls import preprocess
from aiia_serving.images.families import Kind
from aiia_serving.images.guidance import Guidances, tell
from aiia_serving.images.job import MAX_SEED, Job
from aiia_serving.images.model import KINDS, Model
from aiia_serving.images.problem import NAN, ImageProblem
from aiia_serving.images.resolve import resolve, settled
from aiia_serving.images.upscale import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Pictures:
    """A job's decoded images, all of the size that is computed. ``before`` and ``hole`` are of the result's size:
    what stays outside of the mask, and where it does not."""

    source: "Image | None" = None
    mask: "Image | None" = None
    before: "Image | None" = None
    hole: "Image | None" = None
    controls: tuple["Image", ...] = ()


@dataclass(frozen=True)
class Call:
    """One image of a job. Calls with equal keys can be one batch; one whose key is None is computed alone.

    ``steps`` is how often the callback is called for it; ``width`` and ``height`` are the result's, in pixels,
    ``canvas`` the size that is computed, of which the result is the upper left.
    """

    job: Job
    index: int
    seed: int
    steps: int
    width: int
    height: int
    key: tuple[Any, ...] | None
    canvas: tuple[int, int] = (0, 0)
    windows: int = 1
    pictures: Pictures = field(default_factory=Pictures, repr=False)


@dataclass(frozen=True)
class Ready:
    """A job that can start: every None resolved, its seed drawn."""

    job: Job
    calls: list[Call]

    @property
    def cost_steps(self) -> int:
        """Steps over all images."""
        return sum(call.steps for call in self.calls)


def prepare(job: Job, model: Model) -> Ready:
    """Checks a job against the model and decodes its images. Raises ImageProblem, before anything is computed."""
    if job.seed is None:
        job = job.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 1 - job.n)})
    if job.work == "upscale":
        return _upscaling(job, model)
    source, hole = _source(job)
    beside = _beside(job, model)
    job = resolve(job, model, source.size if source else None)
    size = (settled(job.width), settled(job.height))
    cell = _computed(size, model.multiple)
    pictures = _pictures(job, model, source, hole, size, cell)
    canvas = cell
    if beside:
        pictures, canvas = _with_others(pictures, beside, cell)
    for index, lora in enumerate(job.loras):
        model.loras.check(lora.name, f"loras[{index}].name")
    windows = prompts.chunks(model, job.prompt, job.negative_prompt or "")
    steps = _steps(job, model)
    key = _key(job, model, windows, canvas)
    calls = [
        Call(job, index, job.image_seed(index), steps, *size, key, canvas, windows, pictures) for index in range(job.n)
    ]
    return Ready(job, calls)


def assemble(model: Model, calls: Sequence[Call]) -> "Batch":
    """The calls as one computation; their keys must be equal. Loads ControlNets that are not in memory yet."""
    if not calls or len({call.key for call in calls}) > 1 or (calls[0].key is None and len(calls) > 1):
        raise ValueError("only calls with equal keys can be one batch")
    return Batch(model, list(calls))


class Batch:
    """One call of a pipeline of its own over the model's shared components. Its methods belong to one thread."""

    def __init__(self, model: Model, calls: list[Call]) -> None:
        self.model = model
        self.calls = calls
        self._job = calls[0].job
        self.steps = calls[0].steps
        self.adapters = [(lora.name, lora.weight) for lora in self._job.loras]
        self.pipe = None if self._job.work == "upscale" else self._pipeline()

    def activate(self) -> None:
        """Makes this batch's LoRAs and guidance, and no others, count; before it starts and each time it goes on after
        another."""
        if self.pipe is None:
            return
        self.model.loras.activate(self.model.pipe, self.adapters)
        if not self.model.guided:
            tell([self.model.network, *self._controlnets], self._guidances)

    def kwargs(self, callback: Callback | None = None) -> dict[str, Any]:
        """All arguments of the pipeline's call. Computes the prompts, so LoRAs must have been activated."""
        import torch

        generators = [torch.Generator("cpu").manual_seed(call.seed) for call in self.calls]
        arguments = {
            **self._prompts(),
            **self._guidance(),
            **self._sizes(),
            **self._images(),
            "num_inference_steps": self._job.steps,
            "generator": generators,
            "output_type": "np",
            **self._callback(callback),
        }
        if self.model.family.prompts == "flux":
            arguments["max_sequence_length"] = self.model.family.limits.max_prompt_tokens
        return {name: value for name, value in arguments.items() if name in self._known}

    def run(self, callback: Callback | None = None) -> list["Image"]:
        """The images, in the order of the calls. ``callback`` is diffusers' ``callback_on_step_end``; it may raise."""
        if self.pipe is None:
            return self._upscale(callback)
        self.activate()
        return self.finish(self.pipe(**self.kwargs(callback)).images)

    def finish(self, images: Any) -> list["Image"]:
        """Results of the pipeline's call as they are answered. Raises ImageProblem if they hold values that are no
        numbers."""
        import numpy as np
        from PIL import Image

        if not np.isfinite(images).all():
            raise ImageProblem(
                "The image came out with values that are no numbers.",
                code=NAN,
                status=500,
                advice="Try less guidance, another scheduler or smaller LoRA weights; an operator can load the model "
                "in a wider precision.",
            )
        made = [Image.fromarray((image * 255).round().astype("uint8")) for image in images]
        return [_finished(call, image) for call, image in zip(self.calls, made, strict=True)]

    @cached_property
    def _known(self) -> set[str]:
        return set(inspect.signature(self.pipe.__call__).parameters) if self.pipe is not None else set()

    def _callback(self, callback: Callback | None) -> dict[str, Any]:
        if callback is None or "callback_on_step_end" in self._known:
            return {"callback_on_step_end": callback}

        def done(step: int, time: Any, latents: Any) -> None:
            callback(self.pipe, step, time, {"latents": latents})

        # As diffusers had it first; some pipelines have never changed.
        return {"callback": done, "callback_steps": 1}

    @property
    def _kind(self) -> Kind:
        return _kind(self._job)

    @property
    def _guidances(self) -> list[float]:
        return [call.job.guidance or 0.0 for call in self.calls]

    @property
    def _controlnets(self) -> list[Any]:
        model = self.model
        place = (model.network, model.dtype, model.device)
        return [model.controls.get(control.name, *place) for control in self._job.control]

    def _pipeline(self) -> Any:
        return self.model.pipeline(self._kind, self._controlnets, self.model.scheduler(self._job.scheduler))

    def _prompts(self) -> dict[str, Any]:
        import torch

        device = self.model.device
        made: dict[tuple[str, str | None], dict[str, Any]] = {}
        for call in self.calls:
            texts = _texts(call.job, self.model)
            if texts not in made:
                made[texts] = prompts.encode(self.model, device, *texts, call.windows)
        each = [made[_texts(call.job, self.model)] for call in self.calls]

        def joined(parts: list[Any]) -> Any:
            return [text for part in parts for text in part] if isinstance(parts[0], list) else torch.cat(parts)

        return {name: joined([one[name] for one in each]) for name in each[0]}

    def _guidance(self) -> dict[str, Any]:
        against = _texts(self._job, self.model)[1] is not None
        each = self._guidances
        one = len(set(each)) == 1 or not self.model.guided
        scale: float = each[0] if one else Guidances(each)
        arguments: dict[str, Any] = {"guidance_scale": scale}
        if not self.model.guided and against:
            arguments["true_cfg_scale"] = self.model.family.defaults.true_guidance or 1.0
        return arguments

    def _sizes(self) -> dict[str, Any]:
        width, height = self.calls[0].canvas
        return {"width": width, "height": height}

    def _images(self) -> dict[str, Any]:
        pictures = [call.pictures for call in self.calls]
        arguments: dict[str, Any] = {}
        controls = _several(self._controls(), len(self.calls))
        if self._kind == "generate":
            if controls is not None:
                arguments["control_image" if "control_image" in self._known else "image"] = controls
        else:
            arguments |= {"image": [one.source for one in pictures], "strength": self._job.strength}
            if controls is not None:
                arguments["control_image"] = controls
        if self._kind == "inpaint":
            arguments["mask_image"] = [one.mask for one in pictures]
        if controls is not None:
            arguments |= _control_arguments(self._job)
        return arguments

    def _controls(self) -> tuple["Image", ...]:
        """The control images; those that a model makes are made now that this batch has the device."""
        model = self.model
        return tuple(
            model.depths.image(settled(control.preprocessor), picture, model.dtype, model.device)
            if control.preprocessor in model.depths.names
            else picture
            for control, picture in zip(self._job.control, self.calls[0].pictures.controls, strict=True)
        )

    def _upscale(self, callback: Callback | None) -> list["Image"]:
        call = self.calls[0]

        def done(tile: int, tiles: int) -> None:
            if callback is not None:
                callback(None, tile, tiles, {})

        size = (call.width, call.height)
        name, source = settled(call.job.upscaler), settled(call.pictures.source)
        return [self.model.upscalers.run(name, source, size, self.model.device, done)]


def _texts(job: Job, model: Model) -> tuple[str, str | None]:
    """The prompt, and the negative one if there is a pass for it."""
    if model.guided:
        return job.prompt, (job.negative_prompt or "") if (job.guidance or 0) > 1 else None
    return job.prompt, job.negative_prompt or None


def _computed(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The size that the network computes for a result of ``size``: the next larger one that it can."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def _kind(job: Job) -> Kind:
    """With images beside it, the one that is edited is a hole that is painted anew: the others stay as they are."""
    return "inpaint" if len(job.images) > 1 else KINDS[job.work]


def _steps(job: Job, model: Model) -> int:
    steps = settled(job.steps)
    own = model.scheduler(job.scheduler)
    _divisible(own, job, model)
    if _kind(job) != "generate":
        strength = settled(job.strength)
        # As the pipelines count: whole steps from the end for the diffusion families, from the start for FLUX.
        kept = min(int(steps * strength), steps) if model.counts_down else steps - int(steps - steps * strength)
        if kept < 1:
            raise ImageProblem(
                f"A strength of {strength} leaves none of {steps} steps.",
                code="invalid_value",
                param="strength",
                advice="Raise the strength or the number of steps.",
            )
        steps = kept
    # PNDM starts with one step more.
    return steps + 1 if type(own).__name__ == "PNDMScheduler" and steps == job.steps else steps


def _divisible(own: Any, job: Job, model: Model) -> None:
    """Raises ImageProblem for more steps than the scheduler can make of the times that its model was trained on."""
    if not model.counts_down:
        return
    trained = own.config.num_train_timesteps
    try:
        own.set_timesteps(job.steps)
        # Those of DDIM may begin beyond the first.
        fits = int(max(own.timesteps)) < trained
    except ValueError:
        fits = False
    if not fits:
        raise ImageProblem(
            f"The scheduler '{job.scheduler}' of this model does not take {job.steps} steps; ask for fewer.",
            code="out_of_bounds",
            param="steps",
        )


def _key(job: Job, model: Model, windows: int, canvas: tuple[int, int]) -> tuple[Any, ...] | None:
    if len(job.control) > 1:
        # The pipelines take several ControlNets for one image at a time.
        return None
    return (
        _kind(job),
        canvas,
        job.steps,
        job.scheduler,
        None if model.guides_each else job.guidance,
        job.strength,
        _texts(job, model)[1] is not None,
        windows,
        tuple((lora.name, lora.weight) for lora in job.loras),
        # A control image is made for the result's size, of which several have one canvas.
        (job.width, job.height) if job.control else None,
        tuple((one.name, digest(one.image), one.preprocessor, one.weight, one.start, one.end) for one in job.control),
    )


def digest(encoded: str) -> str:
    """A name for an image as it was sent."""
    return hashlib.sha256(encoded.encode()).hexdigest()


def _source(job: Job) -> tuple["Image | None", "Image | None"]:
    """The image that is worked on, as RGB, and its mask, in greys; both of the size that was sent."""
    if job.work == "generate":
        if job.images:
            raise ImageProblem("To draw from text no image is taken.", code="unexpected_field", param="images")
        source = hole = None
    else:
        source = inputs.image(_first(job), "images[0]")
        hole = source if source.mode == "RGBA" else None
    if job.mask is not None:
        if job.work != "inpaint" or source is None:
            raise ImageProblem("A mask belongs to inpainting only.", code="unexpected_field", param="mask")
        hole = inputs.mask(job.mask, source.size, "mask")
    elif hole is not None:
        hole = inputs.transparency(hole)
    if job.work == "inpaint" and (hole is None or hole.getextrema() == (0, 0)):
        raise ImageProblem(
            "The mask is missing, or marks nothing: white, or transparent parts, say where to paint.",
            code="missing_field" if hole is None else "empty_mask",
            param="mask",
        )
    return (source.convert("RGB") if source else None), hole


def _first(job: Job) -> str:
    """The image that is worked on."""
    if not job.images:
        raise ImageProblem(f"The work '{job.work}' needs an image.", code="missing_field", param="images")
    return job.images[0]


def _beside(job: Job, model: Model) -> list["Image"]:
    """The further images, as RGB: the network sees them beside the first, which alone is worked on."""
    if len(job.images) < 2:
        return []
    if job.work not in ("edit", "inpaint", "outpaint") or "inpaint" not in model.works or job.control:
        what = "together with a ControlNet" if job.control else f"for '{job.work}'"
        raise ImageProblem(
            f"This model takes one image at a time {what}; send one request for each.",
            code="too_many_images",
            param="images",
        )
    return [inputs.image(one, f"images[{index}]").convert("RGB") for index, one in enumerate(job.images[1:], 1)]


def _with_others(pictures: Pictures, others: list["Image"], cell: tuple[int, int]) -> tuple[Pictures, tuple[int, int]]:
    """The first image's cell with the others in equal parts of a second one, below or to the right; and the canvas.

    Only the first's is painted: all of it, or its hole.
    """
    from PIL import Image, ImageOps

    below = cell[0] >= cell[1]
    canvas = (cell[0], 2 * cell[1]) if below else (2 * cell[0], cell[1])
    source, mask = Image.new("RGB", canvas), Image.new("L", canvas)
    source.paste(settled(pictures.source))
    mask.paste(pictures.mask or Image.new("L", cell, 255))
    part = (cell[0] // len(others), cell[1]) if below else (cell[0], cell[1] // len(others))
    for index, other in enumerate(others):
        at = (index * part[0], cell[1]) if below else (cell[0], index * part[1])
        source.paste(ImageOps.pad(other, part), at)
    return replace(pictures, source=source, mask=mask), canvas


def _pictures(
    job: Job,
    model: Model,
    source: "Image | None",
    hole: "Image | None",
    size: tuple[int, int],
    computed: tuple[int, int],
) -> Pictures:
    from PIL import ImageOps

    before = source
    if source is not None and job.work == "outpaint":
        before, hole = _widened(job, source)
    elif job.work != "inpaint":
        hole = None
    if before is not None:
        before = ImageOps.fit(before, size)
    if hole is not None:
        hole = ImageOps.fit(hole, size)
    return Pictures(
        source=_padded(before, computed) if before is not None else None,
        mask=_padded(hole, computed) if hole is not None else None,
        before=before,
        hole=hole,
        controls=_control_images(job, model, size, computed),
    )


def _control_images(job: Job, model: Model, size: tuple[int, int], computed: tuple[int, int]) -> tuple["Image", ...]:
    from PIL import ImageOps

    made = []
    for index, control in enumerate(job.control):
        model.controls.check(control.name, f"control[{index}].name")
        picture = inputs.image(control.image, f"control[{index}].image").convert("RGB")
        shown = ImageOps.fit(picture, size)
        if control.preprocessor in model.depths.names:
            model.depths.check(settled(control.preprocessor))
        else:
            known = model.depths.names
            shown = preprocess(shown, control.preprocessor, f"control[{index}].preprocessor", known)
        made.append(_padded(shown, computed))
    return tuple(made)


def _padded(image: "Image", size: tuple[int, int]) -> "Image":
    """The image with its last column and row repeated to the right and below."""
    import numpy as np
    from PIL import Image

    if image.size == size:
        return image
    pixels = np.asarray(image)
    wide = [(0, size[1] - image.height), (0, size[0] - image.width), (0, 0)]
    return Image.fromarray(np.pad(pixels, wide[: pixels.ndim], mode="edge"))


def _widened(job: Job, source: "Image") -> tuple["Image", "Image"]:
    """The source on a larger canvas, its edges drawn out, and the mask of what is new."""
    import numpy as np
    from PIL import Image

    to = settled(job.outpaint)
    borders = [(to.top, to.bottom), (to.left, to.right)]
    canvas = np.pad(np.asarray(source), [*borders, (0, 0)], mode="edge")
    hole = np.pad(np.zeros((source.height, source.width), dtype=np.uint8), borders, constant_values=255)
    return Image.fromarray(canvas), Image.fromarray(hole)


def _finished(call: Call, image: "Image") -> "Image":
    from PIL import Image

    image = image.crop((0, 0, call.width, call.height))
    if call.pictures.hole is None or call.pictures.before is None:
        return image
    return Image.composite(image, call.pictures.before, call.pictures.hole)


def _several(images: tuple["Image", ...], count: int) -> Any:
    """The control images of a batch as pipelines take them: with several ControlNets, a list for each."""
    if not images:
        return None
    return [images[0]] * count if len(images) == 1 else list(images)


def _control_arguments(job: Job) -> dict[str, Any]:
    def each(values: list[float]) -> Any:
        return values[0] if len(values) == 1 else values

    arguments = {
        "controlnet_conditioning_scale": each([float(control.weight) for control in job.control]),
        "control_guidance_start": each([float(control.start) for control in job.control]),
        "control_guidance_end": each([float(control.end) for control in job.control]),
    }
    if len(job.control) > 1:
        # FLUX's count the ControlNets by their modes.
        arguments["control_mode"] = [None] * len(job.control)
    return arguments


def _upscaling(job: Job, model: Model) -> Ready:
    for name in ("strength", "outpaint", "mask", "width", "height", "steps", "guidance", "scheduler"):
        if getattr(job, name) is not None:
            raise ImageProblem(f"Upscaling takes no {name}.", code="unexpected_field", param=name)
    for name in ("loras", "control"):
        if getattr(job, name):
            raise ImageProblem(f"Upscaling takes no {name}.", code="unexpected_field", param=name)
    if job.n != 1:
        raise ImageProblem("Upscaling makes one image.", code="invalid_value", param="n")
    name = job.upscaler or model.upscalers.default
    model.upscalers.check(name)
    _beside(job, model)
    source = inputs.image(_first(job), "images[0]").convert("RGB")
    scale = job.scale or model.upscalers.factor(name)
    width, height = round(source.width * scale), round(source.height * scale)
    # What the upscaler makes by itself is held as well, before it is brought to the size that is wanted.
    made = source.width * source.height * max(scale, model.upscalers.factor(name)) ** 2
    if made > MAX_PIXELS:
        raise ImageProblem(
            f"The result would have {width} x {height} pixels; at most {MAX_PIXELS / 1e6:.0f} million are made.",
            code="image_too_large",
            param="scale",
        )
    job = job.model_copy(update={"upscaler": name, "scale": float(scale)})
    steps = model.upscalers.tiles(name, source.size)
    call = Call(job, 0, job.image_seed(0), steps, width, height, None, pictures=Pictures(source=source))
    return Ready(job, [call])
