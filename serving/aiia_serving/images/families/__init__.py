"""Families of image models: what they can do and what is good for them, as data in the YAML files beside this one."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["generate", "edit", "inpaint"]
Source = Literal["edit", "inpaint", "outpaint", "variation"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Part):
    """Sides and pixels are the result's; upscaling has bounds of its own."""

    min_side: int
    max_side: int
    max_pixels: int
    max_steps: int
    max_n: int
    max_guidance: float
    max_prompt_tokens: int


class Defaults(Part):
    """``width`` and ``height`` None: the size that the network was made for, else the family's first."""

    width: int | None = None
    height: int | None = None
    steps: int
    guidance: float
    true_guidance: float | None = None
    scheduler: str
    strength: dict[Source, float]


class Scheduler(Part):
    """A class of diffusers and what is changed in the model's own configuration; no class: the model's own."""

    class_name: str | None = Field(default=None, alias="class")
    options: dict[str, Any] = {}


class Variant(Part):
    """What differs when the network's configuration has these values."""

    name: str
    when: dict[str, Any]
    limits: dict[str, Any] = {}
    defaults: dict[str, Any] = {}


class Family(Part):
    """``classes`` and ``control_classes`` (with ControlNet) are diffusers' pipelines by kind of call, and ``also`` more
    that a folder may name. ``prompts`` is how they are encoded; plain: by the pipeline itself. ``patch`` is the latents
    per side of a token. ``native_size``: the network says its size."""

    name: str
    title: str
    network: Literal["unet", "transformer"]
    prompts: Literal["clip", "clip-pair", "flux", "plain"]
    patch: int
    classes: dict[Kind, str]
    control_classes: dict[Kind, str]
    control_class: str | None = None
    also: list[str] = []
    native_size: bool
    sizes: list[tuple[int, int]]
    limits: Limits
    defaults: Defaults
    schedulers: dict[str, Scheduler]
    variants: list[Variant] = []

    def changed(self, limits: Mapping[str, Any], defaults: Mapping[str, Any]) -> Self:
        """The family with other limits and defaults, as a variant or a Model document has them."""
        data = self.model_dump(by_alias=True)
        data["limits"] |= limits
        data["defaults"] |= {**defaults, "strength": {**data["defaults"]["strength"], **defaults.get("strength", {})}}
        return type(self).model_validate(data)

    def variant(self, network: Mapping[str, Any]) -> Self:
        """The family as it is for a network with this configuration."""
        for variant in self.variants:
            if all(network.get(name) == value for name, value in variant.when.items()):
                return self.changed(variant.limits, variant.defaults)
        return self


@cache
def families() -> dict[str, Family]:
    """All families by name."""
    found = {}
    for entry in sorted(files(__name__).iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            name = entry.name.removesuffix(".yaml")
            found[name] = Family.model_validate({"name": name, **yaml.safe_load(entry.read_text())})
    return found


def family_of(pipeline: str) -> Family | None:
    """The family that a class of diffusers' pipelines belongs to."""
    for family in families().values():
        if pipeline in {*family.classes.values(), *family.control_classes.values(), *family.also}:
            return family
    return None


def other_family(pipeline: str, network: Literal["unet", "transformer"]) -> Family | None:
    """The family ``other`` for any class of diffusers' pipelines that draws from text and belongs to none here.

    It does the works that diffusers has pipelines for over the same components.
    """
    from diffusers.pipelines import auto_pipeline

    maps: dict[Kind, Any] = {
        "generate": auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        "edit": auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        "inpaint": auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    }
    keys = [key for key, kind in maps["generate"].items() if kind.__name__ == pipeline]
    if not keys:
        return None
    classes = {kind: known[keys[0]].__name__ for kind, known in maps.items() if keys[0] in known}
    return families()["other"].model_copy(update={"classes": classes, "network": network})
