"""How a model is put on its device: precision, quantisation and offload by the memory there is, quality first."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from aiia_serving.images.model import Model
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.weights import tensors

Dtype = Literal["float32", "bfloat16", "float16"]
_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

# Of a GPU's memory the rest is CUDA's and what is lost between pieces.
_GPU_PART = 0.92
_MAIN_PART = 0.6
# What one image of the family's first size takes beside the weights, in 16 bits; decoded as a whole, and in tiles.
_WORKING = {"sd15": (1.6e9, 0.8e9), "sdxl": (4.0e9, 1.4e9), "flux": (4.0e9, 1.8e9)}
_WORKING_ELSE = (4.0e9, 2.0e9)


@dataclass(frozen=True)
class Numbers:
    """How many numbers the weights are: the network's, the text encoders', and the others'."""

    network: int
    encoders: int
    others: int

    @property
    def total(self) -> int:
        return self.network + self.encoders + self.others


@dataclass(frozen=True)
class Placement:
    """``offload`` names what waits in main memory: nothing, the text encoders, or all, block by block."""

    device: str
    dtype: Dtype
    quantization: Literal["none", "fp8"] = "none"
    offload: Literal["none", "encoders", "blocks"] = "none"
    vae_tiling: bool = False

    def bytes(self, numbers: Numbers) -> int:
        """What the weights take on the device."""
        width = _BYTES[self.dtype]
        network = numbers.network * (1 if self.quantization == "fp8" else width)
        if self.offload == "blocks":
            # Two blocks of perhaps twenty are there at a time.
            return int(network * 0.1 + numbers.others * width)
        encoders = numbers.encoders if self.offload == "none" else 0
        return int(network + (encoders + numbers.others) * width)


def count(source: Path, parts: Mapping[str, list[Path]] | None = None) -> Numbers:
    """The numbers in a pipeline's folder or single file and in what is added, from the files' headers alone."""
    found = {"network": 0, "encoders": 0, "others": 0}
    folders = [folder for folder in source.iterdir() if folder.is_dir()] if source.is_dir() else []
    for folder in folders:
        if folder.name in ("safety_checker", "image_encoder"):
            continue
        kind = "network" if folder.name in ("unet", "transformer") else "others"
        kind = "encoders" if folder.name.startswith("text_encoder") else kind
        found[kind] += sum(_numbers(file) for file in _once(folder))
    if not source.is_dir():
        for name, tensor in tensors(source).items():
            kind = "encoders" if name.startswith(("cond_stage_model", "conditioner", "text_encoders")) else "network"
            found["others" if name.startswith(("first_stage_model", "vae.")) else kind] += prod(tensor.shape)
    for file in (file for files in (parts or {}).values() for path in files for file in _files(path)):
        # A part that cannot be read is refused when a request asks for it; the model does without.
        with contextlib.suppress(ImageProblem):
            found["others"] += _numbers(file)
    return Numbers(**found)


def plan(numbers: Numbers, family: str, gpu_bytes: int | None, wanted: Mapping[str, Any]) -> Placement:
    """The first of the ways, from the best images to the least memory, that fits; the last if none does.

    ``gpu_bytes`` None: there is no GPU. ``wanted`` are the document's options, of which each that is not ``auto``
    counts.
    """
    precision = wanted.get("precision", "auto")
    if gpu_bytes is None:
        dtype: Dtype = "float32" if precision == "auto" else precision
        return Placement("cpu", dtype, _said(wanted, "quantization", "none"), "none", bool(wanted.get("vae_tiling")))
    dtype = "bfloat16" if precision == "auto" else precision
    whole, tiled = _WORKING.get(family, _WORKING_ELSE)
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
    for placement in allowed:
        working = tiled if placement.vae_tiling else whole
        if placement.bytes(numbers) + working <= gpu_bytes * _GPU_PART:
            return placement
    return allowed[-1]


class Placed:
    """A loaded model as a placement wants it."""

    def __init__(self, model: Model, placement: Placement) -> None:
        self.model = model
        self.placement = placement
        if placement.quantization == "fp8":
            _narrow(model)
        if placement.vae_tiling:
            model.components["vae"].enable_tiling()
        self._offloaded: set[int] = set()

    def to(self, device: Any) -> None:
        """Moves all weights that are not offloaded; the first time on a GPU, sets offloading up."""
        if self.placement.offload != "none" and not self._offloaded and str(device) != "cpu":
            self._offload(device)
        for module in self.model.modules():
            if id(module) not in self._offloaded:
                module.to(device)

    def drop(self) -> None:
        """Frees the memory of the weights; the model is of no use any more."""
        for module in self.model.modules():
            if id(module) not in self._offloaded:
                module.to("meta")

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
            apply_group_offloading(
                module,
                onload_device=torch.device(device),
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                use_stream=torch.device(device).type == "cuda",
            )
            self._offloaded.add(id(module))


def gpu_bytes() -> int | None:
    """Memory of the replica's GPU; None without one."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def main_bytes() -> int:
    """What models may take of the machine's memory."""
    import psutil

    return int(psutil.virtual_memory().total * _MAIN_PART)


def _narrow(model: Model) -> None:
    import torch

    model.network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=model.network.dtype)


def _said(wanted: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    value = wanted.get(name, "auto")
    return otherwise if value == "auto" else value


def _once(folder: Path) -> list[Path]:
    """A folder's weights, one form of them."""
    files = sorted(folder.glob("*.safetensors"))
    plain = [file for file in files if ".fp16." not in file.name]
    return plain or files


def _files(path: Path) -> list[Path]:
    return _once(path) if path.is_dir() else [path]


def _numbers(path: Path) -> int:
    return sum(prod(tensor.shape) for tensor in tensors(path).values())
