"""From a Model document's options to a model that is placed."""

import json
from pathlib import Path
from typing import Any

from aiia_serving.images.controls import Controls
from aiia_serving.images.depth import Depths
from aiia_serving.images.engine import checks
from aiia_serving.images.engine.common import Common
from aiia_serving.images.engine.placement import Placed, count, gpu_bytes, plan, working
from aiia_serving.images.engine.tuning import tune
from aiia_serving.images.families import Family
from aiia_serving.images.parts import Key
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.sources import lacking, load_model, recognise
from aiia_serving.images.upscale import Upscalers
from aiia_serving.images.weights import files, numbers

# What modules hold beside the numbers of their files.
_BUFFERS = 1.02


class Loader:
    """``options`` are the document's, with paths in the place of sources (see ``engines.diffusers``).

    ``budget`` is what weights may take at most, in bytes, if that was said. Models with the same ``common`` have equal
    parts together. Raises ImageProblem, with the reason, for files that are no model.
    """

    def __init__(
        self,
        name: str,
        source: Path,
        options: dict[str, Any],
        budget: int | None = None,
        common: Common | None = None,
    ) -> None:
        self._name = name
        self._source = source
        self._options = options
        self._config = Path(options["config"]) if options["config"] else None
        common = common or Common()
        self._parts = {
            kind: {part: Path(place) for part, place in options[kind].items()}
            for kind in ("loras", "controls", "upscalers", "depths")
        }
        found = count(source, {kind: list(parts.values()) for kind, parts in self._parts.items()}, self._config)
        family = recognise(source)
        self.placement = plan(found, family.name, gpu_bytes(), options, budget)
        self.bytes = int(self.placement.bytes(found) * _BUFFERS)
        # Beside the weights, for one image.
        self.working = working(family.name, tiled=self.placement.vae_tiling)
        self._shelf = common.shelf(self.placement.how)
        self._components = {
            part: self._shelf.key(kind, common.first(path))
            for part, (kind, path) in self._beside(family).items()
            if path.exists() and files(path)
        }
        for kind in ("controls", "upscalers", "depths"):
            self._parts[kind] = {part: common.first(path) for part, path in self._parts[kind].items()}
        further = (
            Controls(self._parts["controls"], family, self._shelf),
            Upscalers(self._parts["upscalers"], self._shelf),
            Depths(self._parts["depths"], self._shelf),
        )
        # What each part takes that may be another model's too, in bytes.
        self.common = {key: self._bytes_of(part, key) for part, key in self._components.items()}
        self.common |= {key: self._bytes_of(key[1], key) for parts in further for key in parts.keys}

    @property
    def how(self) -> dict[str, object]:
        """How it is placed and why, as states tell it."""
        chosen = self.placement
        return {
            "device": chosen.device,
            "precision": chosen.dtype,
            "quantization": chosen.quantization,
            "offload": chosen.offload,
            "why": chosen.why,
        }

    def load(self) -> Placed:
        """Into main memory, or onto the GPU where the quickest way has to be measured."""
        import torch

        vae = self._options["vae"]
        there = {part: module for part, key in self._components.items() for module in self._shelf.modules([key])}
        model = load_model(
            self._source,
            id=self._name,
            family=self._options["family"],
            dtype=getattr(torch, self.placement.dtype),
            vae=Path(vae) if vae else None,
            config=self._config,
            limits=self._options["limits"],
            defaults=self._options["defaults"],
            parts=there,
            shelf=self._shelf,
            **self._parts,
        )
        checks.install(model)
        placed = Placed(model, self.placement, self.common)
        if self.placement.device == "cuda":
            placed.to(self.placement.device)
        tune(model, self._options["attention"], self._options["compile"])
        for part, key in self._components.items():
            self._shelf.put(key, model.components[part])
        return placed

    def _beside(self, family: Family) -> dict[str, tuple[str, Path]]:
        """Components that no request changes, beside the network: the class of each, and its place."""
        import diffusers

        changed = ("unet", "transformer")
        if self._parts["loras"]:
            changed += tuple(getattr(getattr(diffusers, family.classes["generate"]), "_lora_loadable_modules", ()))
        found = {
            part: made
            for part, made in _index(self._source if self._source.is_dir() else self._config).items()
            if (part == "vae" or part.startswith("text_encoder")) and part not in changed
        }
        if not self._source.is_dir():
            found = {part: found[part] for part in lacking(self._source) if part in found}
        if self._options["vae"]:
            found["vae"] = ("AutoencoderKL", Path(self._options["vae"]))
        return found

    def _bytes_of(self, part: str, key: Key) -> int:
        try:
            return int(self.placement.bytes_of(part, numbers(key[2])) * _BUFFERS)
        except ImageProblem:
            # It is refused when it is asked for.
            return 0


def _index(folder: Path | None) -> dict[str, tuple[str, Path]]:
    """The parts of a pipeline's folder, with the class and the place of each."""
    if folder is None:
        return {}
    try:
        parts = dict(json.loads((folder / "model_index.json").read_text()))
    except (OSError, ValueError):
        return {}
    pairs = {name: made for name, made in parts.items() if isinstance(made, list) and len(made) == 2 and made[1]}
    return {name: (made, folder / name) for name, (_, made) in pairs.items()}
