"""One piece of work for an image model, as it travels from the gateway to a replica.

Bounds here hold for every model; a model's own are in its family's limits.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aiia_serving.images.problem import ImageProblem

Work = Literal["generate", "edit", "inpaint", "outpaint", "variation", "upscale"]
Priority = Literal["interactive", "api", "batch"]

WORKS: tuple[Work, ...] = ("generate", "edit", "inpaint", "outpaint", "variation", "upscale")
MAX_PROMPT = 10_000
MAX_SIDE = 8192
MAX_SEED = 2**32 - 1
MAX_IMAGES = 16
# 20 MB as base64; an image of that many bytes is refused before it is decoded.
MAX_ENCODED = 28_000_000

Encoded = Annotated[str, Field(max_length=MAX_ENCODED, min_length=1)]
Name = Annotated[str, Field(pattern=r"^[\w][\w.:-]*$", max_length=128)]
Side = Annotated[int, Field(ge=8, le=MAX_SIDE)]
Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]
Border = Annotated[int, Field(ge=0, le=4096)]


class Part(BaseModel):
    """A field that is not known is a mistake; numbers are not read from strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Lora(Part):
    """A LoRA by its name in the Model document, and how strongly it counts."""

    name: Name
    weight: float = Field(default=1.0, ge=-4, le=4)


class Control(Part):
    """A ControlNet by its name in the Model document, and the image that it follows.

    ``preprocessor`` makes the control image from ``image``; none takes it as it is. ``start`` and ``end`` are the
    parts of the steps, 0 to 1, in which it counts.
    """

    name: Name
    image: Encoded
    preprocessor: Name | None = None
    weight: float = Field(default=1.0, ge=0, le=2)
    start: float = Field(default=0.0, ge=0, le=1)
    end: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start >= self.end:
            raise ValueError("start must be below end")
        return self


class Outpaint(Part):
    """How many pixels are added at each side."""

    left: Border = 0
    right: Border = 0
    top: Border = 0
    bottom: Border = 0


class Job(Part):
    """What is wanted. None means what the model's family presets say.

    Images are base64 of PNG, JPEG or WebP. Image ``i`` of ``n`` uses seed ``seed + i`` (modulo 2**32); without a seed
    one is drawn. Where ``mask`` is white the image is painted anew. ``strength`` is how much of the source is given up,
    0 to 1. Without ``steps`` they are the model's own, times ``effort``. ``previews`` is every how many steps a preview
    is sent; 0 sends none.
    """

    request_id: str = Field(default="", max_length=200)
    priority: Priority = "api"
    work: Work
    prompt: Prompt = ""
    negative_prompt: Prompt | None = None
    width: Side | None = None
    height: Side | None = None
    steps: int | None = Field(default=None, ge=1, le=1000)
    effort: float = Field(default=1.0, gt=0, le=4)
    guidance: float | None = Field(default=None, ge=0, le=100)
    scheduler: Name | None = None
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    n: int = Field(default=1, ge=1, le=MAX_IMAGES)
    images: list[Encoded] = Field(default_factory=list, max_length=MAX_IMAGES)
    mask: Encoded | None = None
    strength: float | None = Field(default=None, ge=0, le=1)
    outpaint: Outpaint | None = None
    upscaler: Name | None = None
    scale: float | None = Field(default=None, gt=1, le=8)
    loras: list[Lora] = Field(default_factory=list, max_length=16)
    control: list[Control] = Field(default_factory=list, max_length=8)
    previews: int = Field(default=0, ge=0, le=1000)

    @classmethod
    def parse(cls, data: object) -> Self:
        """The job in a decoded JSON body. Raises ImageProblem that names the field at fault."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _problem(error) from None

    def image_seed(self, index: int) -> int:
        """The seed of image ``index``; the job's own seed must be known."""
        if self.seed is None:
            raise ValueError("a job without a seed has no seeds of images")
        return (self.seed + index) % (MAX_SEED + 1)


def _problem(error: ValidationError) -> ImageProblem:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = _path(first["loc"])
    code = {"missing": "missing_field", "extra_forbidden": "unknown_field"}.get(first["type"], "invalid_value")
    message = first["msg"].removeprefix("Value error, ")
    return ImageProblem(f"{param}: {message}" if param else message, code=code, param=param)


def _path(location: tuple[Any, ...]) -> str | None:
    """``control[0].image``; None for the whole body."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    # A key that the caller made up may be of any length.
    return path[:100] or None
