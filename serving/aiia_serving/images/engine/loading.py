"""From a Model document's options to a model that is placed."""

from pathlib import Path
from typing import Any

from aiia_serving.images.engine import checks
from aiia_serving.images.engine.placement import Placed, count, gpu_bytes, plan, working
from aiia_serving.images.engine.tuning import tune
from aiia_serving.images.sources import load_model, recognise

# What modules hold beside the numbers of their files.
_BUFFERS = 1.02


class Loader:
    """``options`` are the document's, with paths in the place of sources (see ``engines.diffusers``).

    ``budget`` is what weights may take at most, in bytes, if that was said. Raises ImageProblem, with the reason, for
    files that are no model.
    """

    def __init__(self, name: str, source: Path, options: dict[str, Any], budget: int | None = None) -> None:
        self._name = name
        self._source = source
        self._options = options
        self._parts = {
            kind: {part: Path(place) for part, place in options[kind].items()}
            for kind in ("loras", "controls", "upscalers", "depths")
        }
        self._config = Path(options["config"]) if options["config"] else None
        numbers = count(source, {kind: list(parts.values()) for kind, parts in self._parts.items()}, self._config)
        family = recognise(source).name
        self.placement = plan(numbers, family, gpu_bytes(), options, budget)
        self.bytes = int(self.placement.bytes(numbers) * _BUFFERS)
        # Beside the weights, for one image.
        self.working = working(family, tiled=self.placement.vae_tiling)

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
        model = load_model(
            self._source,
            id=self._name,
            family=self._options["family"],
            dtype=getattr(torch, self.placement.dtype),
            vae=Path(vae) if vae else None,
            config=self._config,
            limits=self._options["limits"],
            defaults=self._options["defaults"],
            **self._parts,
        )
        checks.install(model)
        placed = Placed(model, self.placement)
        if self.placement.device == "cuda":
            placed.to(self.placement.device)
        tune(model, self._options["attention"], self._options["compile"])
        return placed
