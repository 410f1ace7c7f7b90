"""The bodies of requests for images: OpenAI's fields and ours beside them, and the job that they mean."""

import re
import secrets
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from aiia_serving.gateway.errors import ApiError
from aiia_serving.gateway.requests import Strict, decoded, explained, inline_image, validated
from aiia_serving.images.job import (
    MAX_IMAGES,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIDE,
    Control,
    Encoded,
    Job,
    Lora,
    Name,
    Outpaint,
    Work,
)
from aiia_serving.images.problem import ImageProblem
from aiia_serving.queue import WorkClass

Format = Literal["png", "jpeg", "webp"]
Quality = Literal["auto", "low", "medium", "high", "standard", "hd"]
#: How many times a model's own number of steps a quality means.
_EFFORTS = {"low": 0.5, "high": 1.5, "hd": 1.5}

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")


def _size(given: str) -> str:
    if given == "auto":
        return given
    matched = _SIZE.fullmatch(given)
    if matched is None:
        raise ValueError("it must be 'auto' or WIDTHxHEIGHT, such as '1024x1024'")
    if any(int(side) % 8 or int(side) > MAX_SIDE for side in matched.groups()):
        raise ValueError(f"width and height must be multiples of 8, at most {MAX_SIDE}")
    return given


def _encoded(given: Any) -> Any:
    """Base64, from a string of it, a data URL, or OpenAI's object with one."""
    if isinstance(given, dict) and set(given) == {"image_url"}:
        given = inline_image(given["image_url"])
    if isinstance(given, str):
        if given.startswith(("http:", "https:")):
            inline_image(given)
        if given.startswith("data:"):
            head = _DATA_URL.match(given)
            if head is None:
                raise ValueError("it must be base64 or a data:image/…;base64 URL")
            return given[head.end() :]
    return given


def _listed(given: Any) -> Any:
    return given if isinstance(given, list) else [given]


Image = Annotated[Encoded, BeforeValidator(_encoded)]
Images = Annotated[list[Image], BeforeValidator(_listed), Field(min_length=1, max_length=MAX_IMAGES)]


class _Control(Control):
    image: Image


class ImageRequest(Strict):
    """What the three routes have in common. ``n`` … ``user`` are OpenAI's; the rest is ours and as in ``Job``."""

    model: str
    n: int | None = Field(default=None, ge=1, le=MAX_IMAGES)
    size: Annotated[str, AfterValidator(_size)] | None = None
    quality: Quality | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Format | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    # Images of these models are opaque, and nothing moderates them.
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=3)
    user: str | None = None

    negative_prompt: str | None = Field(default=None, max_length=MAX_PROMPT)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance: float | None = Field(default=None, ge=0, le=100)
    scheduler: Name | None = None
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    loras: list[Lora] | None = Field(default=None, max_length=16)
    control: list[_Control] | None = Field(default=None, max_length=8)
    # For streams with events: a preview at every so many steps.
    previews: int | None = Field(default=None, ge=0, le=1000)

    @property
    def event(self) -> str:
        """The first part of the types of the stream's events."""
        raise NotImplementedError

    def checked(self) -> None:
        """Raises ``ApiError`` 400 for fields that do not go together."""
        if self.partial_images and not self.stream:
            raise _wrong("partial_images", "it needs 'stream' to be true")
        if self.previews and not self.stream:
            raise _wrong("previews", "it needs 'stream' to be true")
        if self.stream and self.response_format == "url":
            raise _wrong("response_format", "streams carry their images as base64")
        if self.output_compression is not None and self.output_format not in ("jpeg", "webp"):
            raise _wrong("output_compression", "it needs 'output_format' to be jpeg or webp")

    def _work(self) -> tuple[Work, dict[str, Any]]:
        """The kind of work, and the job's fields that only some kinds have."""
        raise NotImplementedError

    def job(self, request_id: str, priority: WorkClass) -> Job:
        """What is sent to a replica. A seed is drawn here, so that another replica makes the same again."""
        work, fields = self._work()
        if self.size is not None and self.size != "auto":
            width, _, height = self.size.partition("x")
            fields |= {"width": int(width), "height": int(height)}
        ours = ("negative_prompt", "steps", "guidance", "scheduler", "loras", "control", "n")
        fields |= {name: value for name in ours if (value := getattr(self, name)) is not None}
        fields["effort"] = _EFFORTS.get(self.quality or "", 1.0)
        fields["seed"] = secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed
        try:
            return Job(request_id=request_id, priority=priority, work=work, previews=self._every(), **fields)
        except ValidationError as error:
            raise explained(error) from error

    def _every(self) -> int:
        if self.previews:
            return self.previews
        if not self.partial_images:
            return 0
        # Without a number of steps the model's own decides, and the gateway picks among all previews.
        return max(1, (self.steps or 1) // (self.partial_images + 1))


class GenerationsRequest(ImageRequest):
    """``POST /v1/images/generations``."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)

    @property
    def event(self) -> str:
        return "image_generation"

    def _work(self) -> tuple[Work, dict[str, Any]]:
        return "generate", {"prompt": self.prompt}


class _Upscale(Strict):
    name: Name | None = None
    scale: float | None = Field(default=None, gt=1, le=8)


class EditsRequest(ImageRequest):
    """``POST /v1/images/edits``: a new version of a picture, of its masked part, of its surroundings, or a larger one.

    OpenAI's JSON bodies have ``images``; forms have ``image``. Both take both.
    """

    prompt: str = Field(default="", max_length=MAX_PROMPT)
    image: Images | None = None
    images: Images | None = None
    mask: Image | None = None
    strength: float | None = Field(default=None, ge=0, le=1)
    outpaint: Outpaint | None = None
    upscale: _Upscale | None = None

    @property
    def event(self) -> str:
        return "image_edit"

    def checked(self) -> None:
        super().checked()
        if (self.image is None) == (self.images is None):
            raise _wrong("image", "either 'image' or 'images' is needed, not both")
        if sum(kind is not None for kind in (self.mask, self.outpaint, self.upscale)) > 1:
            raise _wrong("mask", "'mask', 'outpaint' and 'upscale' exclude each other")
        if not self.prompt and self.upscale is None and self.outpaint is None:
            raise ApiError(
                400, "Missing required parameter: 'prompt'.", code="missing_required_parameter", param="prompt"
            )

    def _work(self) -> tuple[Work, dict[str, Any]]:
        fields: dict[str, Any] = {"prompt": self.prompt, "images": self.image or self.images or []}
        if self.strength is not None:
            fields["strength"] = self.strength
        if self.mask is not None:
            return "inpaint", fields | {"mask": self.mask}
        if self.outpaint is not None:
            return "outpaint", fields | {"outpaint": self.outpaint}
        if self.upscale is not None:
            return "upscale", fields | {"upscaler": self.upscale.name, "scale": self.upscale.scale}
        return "edit", fields


class VariationsRequest(ImageRequest):
    """``POST /v1/images/variations``."""

    image: Images
    prompt: str = Field(default="", max_length=MAX_PROMPT)
    strength: float | None = Field(default=None, ge=0, le=1)

    @property
    def event(self) -> str:
        return "image_variation"

    def _work(self) -> tuple[Work, dict[str, Any]]:
        strength = {} if self.strength is None else {"strength": self.strength}
        return "variation", {"prompt": self.prompt, "images": self.image, **strength}


Q = TypeVar("Q", bound=ImageRequest)


def read(kind: type[Q], given: bytes | dict[str, Any]) -> Q:
    """The request in a JSON body or in a form's fields. Raises ``ApiError`` 400 that names the field."""
    request = validated(kind, decoded(given) if isinstance(given, bytes) else given)
    request.checked()
    return request


def refused(problem: ImageProblem) -> ApiError:
    """A job's problem as the caller is told it."""
    message = f"{problem.message} {problem.advice}" if problem.advice else problem.message
    return ApiError(problem.status, message, code=problem.code, param=problem.param)


def _wrong(param: str, why: str) -> ApiError:
    return ApiError(400, f"Invalid '{param}': {why}.", code="invalid_value", param=param)
