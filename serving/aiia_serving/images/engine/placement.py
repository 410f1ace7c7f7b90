"""How a model is put on its device: precision, quantisation and offload by the memory there is, quality first."""

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from aiia_serving.images.model import Model
from aiia_serving.images.parts import Key
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.sources import lacking
from aiia_serving.images.weights import numbers, tensors

Dtype = Literal["float32", "bfloat16", "float16"]
_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
# Upscalers are float32, whatever the model is.
_UPSCALER_BYTES = 4

# Of a GPU's memory the rest is CUDA's and what is lost between pieces.
GPU_PART = 0.92
_MAIN_PART = 0.6
# What one image of the family's first size takes beside the weights, in 16 bits; decoded as a whole, and in tiles.
_WORKING = {"sd15": (1.6e9, 0.8e9), "sdxl": (4.0e9, 1.4e9), "flux": (4.0e9, 1.8e9)}
_WORKING_ELSE = (4.0e9, 2.0e9)


@dataclass(frozen=True)
class Numbers:
    """How many numbers the weights are: the network's, the text encoders', the upscalers', and the others'."""

    network: int
    encoders: int
    others: int
    upscalers: int = 0

    @property
    def total(self) -> int:
        return self.network + self.encoders + self.others + self.upscalers


@dataclass(frozen=True)
class Placement:
    """``offload`` names what waits in main memory: nothing, the text encoders, or all, block by block.

    ``why`` says how it came to be chosen.
    """

    device: str
    dtype: Dtype
    quantization: Literal["none", "fp8"] = "none"
    offload: Literal["none", "encoders", "blocks"] = "none"
    vae_tiling: bool = False
    why: str = field(default="", compare=False)

    @property
    def how(self) -> str:
        """Parts of models with the same are loaded and set up alike."""
        return f"{self.device} {self.dtype} {self.offload} {self.vae_tiling}"

    def bytes_of(self, component: str, count: int) -> int:
        """What the weights of a text encoder, of an ``upscaler``, or of another part beside the network, take on the
        device."""
        if component == "upscaler":
            return count * _UPSCALER_BYTES
        waits = component.startswith("text_encoder") and self.offload != "none"
        return 0 if waits else count * _BYTES[self.dtype]

    def bytes(self, numbers: Numbers) -> int:
        """What the weights take on the device."""
        width = _BYTES[self.dtype]
        network = numbers.network * (1 if self.quantization == "fp8" else width)
        upscalers = numbers.upscalers * _UPSCALER_BYTES
        if self.offload == "blocks":
            # Two blocks of perhaps twenty are there at a time.
            return int(network * 0.1 + numbers.others * width + upscalers)
        encoders = numbers.encoders if self.offload == "none" else 0
        return int(network + (encoders + numbers.others) * width + upscalers)


def count(source: Path, parts: Mapping[str, list[Path]] | None = None, config: Path | None = None) -> Numbers:
    """The numbers in a pipeline's folder or single file and in what is added, from the files' headers alone.

    ``config`` has the parts that a single file lacks.
    """
    found = {"network": 0, "encoders": 0, "others": 0, "upscalers": 0}
    folders = [folder for folder in source.iterdir() if folder.is_dir()] if source.is_dir() else []
    folders += [config / part for part in lacking(source)] if config is not None else []
    for folder in folders:
        if folder.name in ("safety_checker", "image_encoder"):
            continue
        kind = "network" if folder.name in ("unet", "transformer") else "others"
        kind = "encoders" if folder.name.startswith("text_encoder") else kind
        found[kind] += numbers(folder)
    if not source.is_dir():
        for name, tensor in tensors(source).items():
            kind = "encoders" if name.startswith(("cond_stage_model", "conditioner", "text_encoders")) else "network"
            found["others" if name.startswith(("first_stage_model", "vae.")) else kind] += prod(tensor.shape)
    for kind, path in ((kind, path) for kind, paths in (parts or {}).items() for path in paths):
        # A part that cannot be read is refused when a request asks for it; the model does without.
        with contextlib.suppress(ImageProblem):
            found[kind if kind == "upscalers" else "others"] += numbers(path)
    return Numbers(**found)


def working(family: str, *, tiled: bool) -> int:
    """What an image of the family takes beside the weights on a GPU, in bytes."""
    return int(_WORKING.get(family, _WORKING_ELSE)[tiled])


def plan(
    numbers: Numbers, family: str, gpu_bytes: int | None, wanted: Mapping[str, Any], budget: int | None = None
) -> Placement:
    """The first of the ways, from the best images to the least memory, that fits; the last if none does.

    ``gpu_bytes`` None: there is no GPU. ``wanted`` are the document's options, of which each that is not ``auto``
    counts. ``budget`` is what the weights may take at most, if that was said.
    """
    precision = wanted.get("precision", "auto")
    said = [name for name in ("precision", "quantization", "offload") if wanted.get(name, "auto") != "auto"]
    document = f"{' and '.join(said)} as the document says" if said else ""
    if gpu_bytes is None:
        dtype: Dtype = "float32" if precision == "auto" else precision
        quantization = _said(wanted, "quantization", "none")
        why = document or "without a GPU float32 is the quickest"
        return Placement("cpu", dtype, quantization, "none", bool(wanted.get("vae_tiling")), why)
    dtype = "bfloat16" if precision == "auto" else precision
    ways: list[tuple[Any, Any, bool]] = [
        ("none", "none", False),
        ("none", "none", True),
        ("none", "encoders", True),
        ("fp8", "encoders", True),
        ("none", "blocks", True),
        ("fp8", "blocks", True),
    ]
    allowed = [
        Placement("cuda", dtype, quantization, offload, tiling)
        for quantization, offload, tiling in ways
        if _said(wanted, "quantization", quantization) == quantization
        and (_said(wanted, "offload", offload) == offload)
        and wanted.get("vae_tiling") in (None, tiling)
    ] or [
        Placement(
            "cuda",
            dtype,
            _said(wanted, "quantization", "none"),
            _said(wanted, "offload", "none"),
            bool(wanted.get("vae_tiling")),
        )
    ]
    gigabytes = f"the {gpu_bytes / 1e9:.0f} GB of the GPU"
    for placement in allowed:
        weights, image = placement.bytes(numbers), working(family, tiled=placement.vae_tiling)
        if weights + image <= gpu_bytes * GPU_PART and weights <= (budget or weights):
            fits = f"{weights / 1e9:.1f} GB of weights and {image / 1e9:.1f} GB for an image fit {gigabytes}"
            return replace(placement, why="; ".join(filter(None, (document, fits))))
    least = f"what takes least, though too much for {gigabytes}"
    return replace(allowed[-1], why="; ".join(filter(None, (document, least))))


class Placed:
    """A loaded model as a placement wants it. The parts on its shelf with the keys ``common`` may be others' too."""

    def __init__(self, model: Model, placement: Placement, common: Collection[Key] = ()) -> None:
        self.model = model
        self.placement = placement
        self._common = common
        if placement.quantization == "fp8":
            _narrow(model)
        if placement.vae_tiling:
            model.components["vae"].enable_tiling()
        self._offloaded: set[int] = set()
        self._widened: list[tuple[Any, Any]] = []

    @property
    def precision(self) -> Dtype:
        return self.placement.dtype

    @property
    def can_widen(self) -> bool:
        """Whether there is a wider precision. Weights that come from main memory while they count stay as they are."""
        return self.precision != "float32" and self.placement.offload == "none"

    @property
    def widening(self) -> int:
        """Bytes that ``widen`` takes beside the weights."""
        return sum(weight.numel() * (4 - weight.element_size()) for weight in self._narrow_weights())

    def widen(self) -> None:
        """The same weights in float32, until ``narrow``, for whoever has the device. 8 bits stay, and widen further."""
        import torch

        for weight in self._narrow_weights():
            self._widened.append((weight, weight.dtype))
            weight.data = weight.data.float()
        for casting in self._castings():
            casting.compute_dtype = torch.float32

    def narrow(self) -> None:
        """The weights as they were, exactly; does nothing if they are."""
        if not self._widened:
            return
        for weight, dtype in self._widened:
            weight.data = weight.data.to(dtype)
        for casting in self._castings():
            casting.compute_dtype = self._widened[0][1]
        self._widened.clear()

    def _narrow_weights(self) -> list[Any]:
        import torch

        kinds = (torch.float16, torch.bfloat16)
        weights = [weight for module in self.model.modules() for weight in (*module.parameters(), *module.buffers())]
        # One tensor may have several owners.
        return list({id(weight): weight for weight in weights if weight.dtype in kinds}.values())

    def _castings(self) -> list[Any]:
        registries = [getattr(module, "_diffusers_hook", None) for module in self.model.network.modules()]
        found = [registry.get_hook("layerwise_casting") for registry in registries if registry is not None]
        return [casting for casting in found if casting is not None]

    def to(self, device: Any, but: Collection[Key] = ()) -> None:
        """Moves all weights that are not offloaded; the first time on a GPU, sets offloading up. Parts with the keys
        ``but`` stay."""
        if self.placement.offload != "none" and not self._offloaded and str(device) != "cpu":
            self._offload(device)
        for module in self._movable(but):
            module.to(device)

    def drop(self, but: Collection[Key] = ()) -> None:
        """Frees the memory of the weights, but of these parts; the model is of no use any more."""
        movable = self._movable(but)
        self.model.shelf.forget([key for key in self._common if key not in but])
        for module in movable:
            module.to("meta")

    def _movable(self, but: Collection[Key]) -> list[Any]:
        stays = self._offloaded | {id(module) for module in self.model.shelf.modules(but)}
        return [module for module in self.model.modules() if id(module) not in stays]

    def _offload(self, device: Any) -> None:
        import torch
        from diffusers.hooks.group_offloading import apply_group_offloading

        names = [name for name in self.model.components if name.startswith("text_encoder")]
        if self.placement.offload == "blocks":
            names.append(self.model.family.network)
        for name in names:
            module = self.model.components[name]
            if module is None:
                continue
            self._offloaded.add(id(module))
            if _is_offloaded(module):
                continue
            apply_group_offloading(
                module,
                onload_device=torch.device(device),
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                use_stream=torch.device(device).type == "cuda",
            )


def gpu_bytes() -> int | None:
    """Memory of the replica's GPU; None without one."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def main_bytes() -> int:
    """What models may take of the machine's memory."""
    import psutil

    return int(psutil.virtual_memory().total * _MAIN_PART)


def _is_offloaded(module: Any) -> bool:
    """Whether another model that has this part has set it up."""
    registries = [getattr(one, "_diffusers_hook", None) for one in module.modules()]
    return any(registry is not None and registry.get_hook("group_offloading") is not None for registry in registries)


def _narrow(model: Model) -> None:
    import torch

    model.network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=model.network.dtype)


def _said(wanted: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    value = wanted.get(name, "auto")
    return otherwise if value == "auto" else value
