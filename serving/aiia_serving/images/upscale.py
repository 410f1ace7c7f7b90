"""Upscaling: by upscaler models that spandrel knows, in tiles, or by Lanczos resampling, which has its own name."""

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiia_serving.images.parts import Parts, Shelf
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.weights import tensors

if TYPE_CHECKING:
    from PIL.Image import Image

LANCZOS = "lanczos"
TILE = 256
# Pixels around a tile that the model sees and that are cut off again, so that tiles show no seams.
MARGIN = 16
MAX_PIXELS = 40_000_000

TileDone = Callable[[int, int], None]


class Upscalers(Parts[Any]):
    """Upscaler models; ``lanczos`` is always there."""

    def __init__(self, files: Mapping[str, Path], shelf: Shelf | None = None) -> None:
        super().__init__(files, "upscaler", shelf)

    @property
    def names(self) -> list[str]:
        return [*super().names, LANCZOS]

    @property
    def default(self) -> str:
        return self.names[0]

    def check(self, name: str) -> None:
        """Raises ImageProblem unless there is such an upscaler and its file is whole."""
        if name == LANCZOS or self._is_loaded(name):
            return
        if name not in self._files:
            raise ImageProblem(
                f"There is no upscaler '{name}'. Upscalers here: {', '.join(self.names)}.",
                code="unknown_upscaler",
                param="upscaler",
            )
        tensors(self._files[name])

    def factor(self, name: str) -> float:
        """How many times larger the upscaler makes a side by itself. Loads it."""
        return 2.0 if name == LANCZOS else float(self._get(name).scale)

    def tiles(self, name: str, size: tuple[int, int]) -> int:
        """In how many tiles an image of ``size`` (width, height) is computed."""
        return 1 if name == LANCZOS else len(list(_tiles(*size)))

    def run(self, name: str, image: "Image", size: tuple[int, int], device: Any, done: TileDone) -> "Image":
        """The RGB image with ``size`` (width, height); ``done(tile, tiles)`` follows, and may raise to cancel."""
        from PIL import Image

        if name == LANCZOS:
            made = image.resize(size, Image.Resampling.LANCZOS)
            done(0, 1)
            return made
        made = _upscaled(name, self._get(name), image, device, done)
        return made if made.size == size else made.resize(size, Image.Resampling.LANCZOS)

    def _module(self, part: Any) -> Any:
        return part.model

    def _get(self, name: str) -> Any:
        return self._once(name, lambda: _load(name, self._files[name]))


def _load(name: str, path: Path) -> Any:
    tensors(path)
    with _torchvision():
        import spandrel
    try:
        found = spandrel.ModelLoader(device="cpu").load_from_file(path)
    except Exception as error:
        raise _broken(name, "no known upscaler has such weights") from error
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.scale < 2:
        raise _broken(name, "this model does not upscale")
    if found.input_channels != 3:
        raise _broken(name, "this model takes no colour images")
    return found.eval()


def _upscaled(name: str, found: Any, image: "Image", device: Any, done: TileDone) -> "Image":
    import numpy as np
    import torch
    from PIL import Image

    scale = int(found.scale)
    found.to(device)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(device=device, dtype=torch.float32) / 255
    result = torch.empty((3, image.height * scale, image.width * scale), dtype=torch.uint8)
    tiles = list(_tiles(*image.size))
    for number, (left, top, right, bottom) in enumerate(tiles):
        x, y = max(0, left - MARGIN), max(0, top - MARGIN)
        with torch.no_grad():
            seen = pixels[None, :, y : bottom + MARGIN, x : right + MARGIN]
            made = found(seen.to(found.dtype))[0].float()
        if not made.isfinite().all():
            raise _broken(name, "its image came out with values that are no numbers")
        made = made[:, (top - y) * scale : (bottom - y) * scale, (left - x) * scale : (right - x) * scale]
        part = (made.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        result[:, top * scale : bottom * scale, left * scale : right * scale] = part
        done(number, len(tiles))
    return Image.fromarray(result.permute(1, 2, 0).numpy())


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield left, top, min(left + TILE, width), min(top + TILE, height)


@contextmanager
def _torchvision() -> Iterator[None]:
    """A stand-in while spandrel is imported where torchvision is missing, as it must be beside vLLM on CPUs.

    Two of its architectures name functions of torchvision, LaMa and RestoreFormer; neither upscales.
    """
    if "spandrel" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
    for name in ("InterpolationMode", "rotate", "normalize"):
        setattr(modules[names[-1]], name, None)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _broken(name: str, reason: str) -> ImageProblem:
    return ImageProblem(
        f"The upscaler '{name}' can't be used: {reason}.",
        code="broken_upscaler",
        param="upscaler",
        status=422,
        advice=f"Use another one; '{LANCZOS}' is always there.",
    )
