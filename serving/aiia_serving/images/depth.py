"""Depth images by models of transformers, such as Depth Anything and DPT, for ControlNets that follow depth."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiia_serving.images.parts import Parts, Shelf
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.weights import tensors

if TYPE_CHECKING:
    from PIL.Image import Image


class Depths(Parts[tuple[Any, Any]]):
    """Depth models: each what prepares its images, and its module."""

    def __init__(self, files: Mapping[str, Path], shelf: Shelf | None = None) -> None:
        super().__init__(files, "depth", shelf)

    def _module(self, part: tuple[Any, Any]) -> Any:
        return part[1]

    def check(self, name: str) -> None:
        """Raises ImageProblem unless the model's files are whole."""
        if not self._is_loaded(name):
            files = sorted(self._files[name].glob("*.safetensors"))
            if not files:
                raise _broken(name)
            for file in files:
                tensors(file)

    def image(self, name: str, picture: "Image", dtype: Any, device: Any) -> "Image":
        """What is near is bright. ``dtype`` is the one to load with. Computes, so it belongs to the thread that has the
        device."""
        import torch
        from PIL import Image

        processor, module = self._once(name, lambda: _load(name, self._files[name], dtype, device))
        given = processor(images=picture, return_tensors="pt")["pixel_values"].to(device=device, dtype=module.dtype)
        with torch.no_grad():
            found = module(pixel_values=given).predicted_depth[:, None].float()
        size = (picture.height, picture.width)
        depth = torch.nn.functional.interpolate(found, size=size, mode="bicubic", align_corners=False)[0, 0]
        depth = (depth - depth.min()) / (depth.max() - depth.min()).clamp(min=1e-8)
        return Image.fromarray((depth * 255).round().to(torch.uint8).cpu().numpy()).convert("RGB")


def _load(name: str, folder: Path, dtype: Any, device: Any) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        module = AutoModelForDepthEstimation.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        return processor, module.eval().requires_grad_(False).to(device)
    except Exception as error:
        raise _broken(name) from error


def _broken(name: str) -> ImageProblem:
    return ImageProblem(
        f"The preprocessor '{name}' can't be used: it is no depth model of transformers.",
        code="broken_preprocessor",
        param="control",
        status=422,
    )
