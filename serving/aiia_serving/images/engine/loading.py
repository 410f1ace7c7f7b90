"""From a Model document's options to a model that is placed."""

from pathlib import Path
from typing import Any

from aiia_serving.images.engine import checks
from aiia_serving.images.engine.placement import Placed, count, gpu_bytes, plan
from aiia_serving.images.engine.tuning import tune
from aiia_serving.images.sources import load_model, recognise

# What modules hold beside the numbers of their files.
_BUFFERS = 1.02


class Loader:
    """``options`` are the document's, with paths in the place of sources (see ``engines.diffusers``).

    Raises ImageProblem, with the reason, for files that are no model.
    """

    def __init__(self, name: str, source: Path, options: dict[str, Any]) -> None:
        self._name = name
        self._source = source
        self._options = options
        self._parts = {
            kind: {part: Path(place) for part, place in options[kind].items()}
            for kind in ("loras", "controls", "upscalers")
        }
        numbers = count(source, {kind: list(parts.values()) for kind, parts in self._parts.items()})
        self.placement = plan(numbers, recognise(source).name, gpu_bytes(), options)
        self.bytes = int(self.placement.bytes(numbers) * _BUFFERS)

    def load(self) -> Placed:
        """Into main memory, or onto the GPU where the quickest way has to be measured."""
        import torch

        torch.set_num_threads(self._options["threads"])
        config, vae = self._options["config"], self._options["vae"]
        model = load_model(
            self._source,
            id=self._name,
            family=self._options["family"],
            dtype=getattr(torch, self.placement.dtype),
            vae=Path(vae) if vae else None,
            config=Path(config) if config else None,
            limits=self._options["limits"],
            defaults=self._options["defaults"],
            **self._parts,
        )
        checks.install(model.components)
        placed = Placed(model, self.placement)
        if self.placement.device == "cuda":
            placed.to(self.placement.device)
        tune(model, self._options["attention"], self._options["compile"])
        return placed
