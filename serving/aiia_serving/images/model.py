"""An image model in memory: shared components, and what was added to them."""

import inspect
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache, cached_property
from math import lcm
from typing import Any

from aiia_serving.images.controls import PREPROCESSORS, Controls
from aiia_serving.images.depth import Depths
from aiia_serving.images.families import Family, Kind
from aiia_serving.images.job import WORKS, Work
from aiia_serving.images.loras import Loras
from aiia_serving.images.parts import Shelf
from aiia_serving.images.upscale import Upscalers

# Which kind of call does a work.
KINDS: dict[Work, Kind] = {
    "generate": "generate",
    "edit": "edit",
    "variation": "edit",
    "inpaint": "inpaint",
    "outpaint": "inpaint",
}


class Model:
    """``components`` are what diffusers' pipelines of the family are made of, by their argument's name.

    Nothing here is safe for two threads that compute at once; pipelines made by ``pipeline`` share the components.
    Those on the ``shelf`` are other models' too.
    """

    def __init__(
        self,
        id: str,  # noqa: A002  # the catalogue's word
        family: Family,
        components: Mapping[str, Any],
        loras: Loras,
        controls: Controls,
        upscalers: Upscalers,
        depths: Depths,
        config: Mapping[str, Any],
        shelf: Shelf | None = None,
    ) -> None:
        self.id = id
        self.family = family
        self.components = dict(components)
        self.loras = loras
        self.controls = controls
        self.upscalers = upscalers
        self.depths = depths
        self.shelf = shelf or Shelf()
        # As it was loaded: a run may widen the network's weights for a while.
        self.dtype = self.network.dtype
        self._config = dict(config)
        self._schedulers: dict[str, Any] = {}

    @cached_property
    def pipe(self) -> Any:
        """The text-to-image pipeline over the components; adapters are set through it."""
        return self.pipeline("generate", [], self.components["scheduler"])

    @property
    def network(self) -> Any:
        return self.components[self.family.network]

    @property
    def device(self) -> Any:
        return self.network.device

    @property
    def multiple(self) -> int:
        """What both sides in pixels are divided by without a rest, as the network computes."""
        # Some pipelines insist on 8, whatever their latents.
        return lcm(8 * self.family.patch, self.latent_scale * self.family.patch)

    @property
    def latent_scale(self) -> int:
        """Pixels per side of a latent."""
        return int(self.pipe.vae_scale_factor)

    @property
    def works(self) -> list[Work]:
        """What the family has pipelines for; a network that also takes a mask and a masked image wants these always."""
        masked = self.family.network == "unet" and self.network.config.in_channels == 9

        def has(work: Work) -> bool:
            kind = KINDS.get(work)
            return kind is None or (kind in self.family.classes and (kind == "inpaint" or not masked))

        return [work for work in WORKS if has(work)]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of an image where nothing is said."""
        defaults = self.family.defaults
        width, height = self.family.sizes[0]
        native = getattr(self.network.config, "sample_size", None)
        if self.family.native_size and isinstance(native, int):
            width = height = native * self.latent_scale
        return defaults.width or width, defaults.height or height

    @property
    def guided(self) -> bool:
        """Whether guidance is a pass of its own, without or against the negative prompt."""
        return self.family.prompts != "flux"

    @property
    def guides_each(self) -> bool:
        """Whether images of one batch may have different guidance."""
        return self.family.prompts != "plain" and self.network.config.get("time_cond_proj_dim") is None

    @property
    def counts_down(self) -> bool:
        """Whether the pipelines round a strength's steps down, as those of the diffusion families do; else up."""
        return self.family.prompts in ("clip", "clip-pair")

    def scheduler(self, name: str | None = None) -> Any:
        """A new scheduler: the model's own with what the family's entry of that name, else the default's, changes."""
        name = name or self.family.defaults.scheduler
        if name not in self._schedulers:
            import diffusers

            own = self.components["scheduler"]
            entry = self.family.schedulers[name]
            made = getattr(diffusers, entry.class_name) if entry.class_name else type(own)
            self._schedulers[name] = made.from_config(own.config, **entry.options)
        # Making one from its configuration takes several times as long.
        return deepcopy(self._schedulers[name])

    def pipeline(self, kind: Kind, controls: list[Any], scheduler: Any) -> Any:
        """A new pipeline object over the shared components, with its own scheduler and these ControlNets' modules."""
        import diffusers

        classes = self.family.control_classes if controls else self.family.classes
        made = getattr(diffusers, classes[kind])
        known, modules = _arguments(made)
        parts = {name: self.components.get(name) for name in modules}
        parts["scheduler"] = scheduler
        if controls:
            parts["controlnet"] = controls[0] if len(controls) == 1 else controls
        # Refusing pictures is not the engine's business; without its model the checker would warn at each call.
        parts |= {name: None for name in ("safety_checker", "feature_extractor", "image_encoder") if name in known}
        pipe = made(**parts, **{name: value for name, value in self._config.items() if name in known})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def modules(self) -> Iterable[Any]:
        """All that holds weights, also of ControlNets and the like that were loaded since."""
        import torch

        found = [*self.components.values(), *self.controls.modules, *self.upscalers.modules, *self.depths.modules]
        return [module for module in found if isinstance(module, torch.nn.Module)]

    def bytes(self) -> int:
        """Memory that the weights take, wherever they lie."""
        weights = [weight for module in self.modules() for weight in (*module.parameters(), *module.buffers())]
        # One tensor may have several owners.
        return sum({id(weight): weight.numel() * weight.element_size() for weight in weights}.values())

    def to(self, device: Any) -> None:
        """Moves all weights."""
        for module in self.modules():
            module.to(device)

    def capabilities(self) -> dict[str, Any]:
        """What the model can do and how, for callers."""
        width, height = self.size
        defaults = self.family.defaults.model_dump(exclude={"true_guidance"})
        return {
            "family": self.family.name,
            "title": self.family.title,
            "works": self.works,
            "sizes": [f"{width}x{height}"]
            + [f"{w}x{h}" for w, h in self.family.sizes if not self._small and (w, h) != (width, height)],
            "multiple": self.multiple,
            "limits": self.family.limits.model_dump(),
            "defaults": {**defaults, "width": width, "height": height},
            "schedulers": list(self.family.schedulers),
            "loras": self.loras.names,
            "controls": self.controls.names,
            "preprocessors": [*PREPROCESSORS, *self.depths.names],
            "upscalers": self.upscalers.names,
        }

    @property
    def _small(self) -> bool:
        """A network made for far smaller images than its family's."""
        return self.family.native_size and self.size[0] < self.family.sizes[0][0] // 2


@cache
def _arguments(pipeline: Any) -> tuple[set[str], list[str]]:
    """What a class of pipelines is made with, and what of it are components."""
    known = inspect.signature(pipeline.__init__).parameters
    components = pipeline._get_signature_keys(pipeline)[0]
    return set(known), [name for name in known if name in components]
