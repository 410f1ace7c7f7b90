"""ControlNets of a model, and what makes their images from ordinary ones."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from aiia_serving.images.parts import Parts, Shelf
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.weights import check_whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from aiia_serving.images.families import Family


# What a ControlNet has as its base has it: the prompts' width, what else it is told, and the width of its layers.
_OF_BASE = (
    "cross_attention_dim",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
    "block_out_channels",
    "joint_attention_dim",
    "pooled_projection_dim",
)


class Controls(Parts[Any]):
    """ControlNets."""

    def __init__(self, files: Mapping[str, Path], family: "Family", shelf: Shelf | None = None) -> None:
        super().__init__(files, family.control_class or family.name, shelf)
        self._class = family.control_class

    def check(self, name: str, param: str) -> None:
        """Raises ImageProblem unless there is such a ControlNet and its file is whole."""
        if name not in self._files:
            known = ", ".join(self.names) or "none"
            raise ImageProblem(
                f"There is no ControlNet '{name}'. ControlNets here: {known}.", code="unknown_control", param=param
            )
        if not self._is_loaded(name):
            check_whole(self._files[name])

    def get(self, name: str, network: Any, dtype: Any, device: Any) -> Any:
        """The ControlNet's module. Raises ImageProblem if its files are no ControlNet for the base's ``network``."""
        module = self._once(name, lambda: self._load(name, network, dtype, device))
        # Another model of this family's class may have loaded it.
        if any(_of(module, field) != _of(network, field) for field in _OF_BASE):
            raise _broken(name, "it was made for another kind of model")
        return module

    def _load(self, name: str, network: Any, dtype: Any, device: Any) -> Any:
        import diffusers

        path = self._files[name]
        if self._class is None:
            raise _broken(name, "the family has no ControlNets")
        kind = getattr(diffusers, self._class)
        try:
            if path.is_dir():
                module = kind.from_pretrained(path, torch_dtype=dtype, use_safetensors=True, local_files_only=True)
            else:
                module = _from_file(kind, path, network, dtype)
            # Fails if the files had not all of its weights.
            return module.eval().requires_grad_(False).to(device)
        except Exception as error:
            alone = "" if path.is_dir() else ", or is built otherwise than most; give a folder with its config.json"
            raise _broken(name, f"it does not fit this model{alone}") from error


def _from_file(kind: Any, path: Path, network: Any, dtype: Any) -> Any:
    """A file does not say how it is built: as ControlNets made from the base's network are."""
    import torch

    with torch.device("meta"):
        plain = kind.from_unet(network, load_weights_from_unet=False)
    with TemporaryDirectory() as config:
        plain.save_config(config)
        # A base that inpaints takes more channels than its ControlNets do.
        channels = {"in_channels": network.config.out_channels}
        return kind.from_single_file(str(path), config=config, local_files_only=True, torch_dtype=dtype, **channels)


def _of(module: Any, field: str) -> Any:
    value = module.config.get(field)
    return tuple(value) if isinstance(value, list) else value


def _broken(name: str, reason: str) -> ImageProblem:
    return ImageProblem(
        f"The ControlNet '{name}' can't be used: {reason}.", code="broken_control", param="control", status=422
    )


def _canny(image: "Image") -> "Image":
    import cv2
    import numpy as np
    from PIL import Image

    edges = cv2.Canny(np.asarray(image.convert("L")), 100, 200)
    return Image.fromarray(edges).convert("RGB")


def _softedge(image: "Image") -> "Image":
    import numpy as np
    from PIL import Image, ImageFilter, ImageOps

    grey = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(1)), dtype=np.float32)
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    return ImageOps.autocontrast(Image.fromarray(np.clip(strength, 0, 255).astype(np.uint8))).convert("RGB")


def _scribble(image: "Image") -> "Image":
    from PIL import ImageFilter

    return _canny(image.filter(ImageFilter.GaussianBlur(2))).filter(ImageFilter.MaxFilter(3))


def _grey(image: "Image") -> "Image":
    return image.convert("L").convert("RGB")


def _blur(image: "Image") -> "Image":
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(6))


def _invert(image: "Image") -> "Image":
    from PIL import ImageOps

    return ImageOps.invert(image)


PREPROCESSORS: dict[str, Callable[["Image"], "Image"]] = {
    "canny": _canny,
    "softedge": _softedge,
    "scribble": _scribble,
    "grey": _grey,
    "blur": _blur,
    "invert": _invert,
}


def preprocess(image: "Image", name: str | None, param: str, others: Sequence[str] = ()) -> "Image":
    """The control image made from an RGB one; with None, as it is. Raises ImageProblem for a name not known.

    ``others`` are further preprocessors of the model, for the refusal's words.
    """
    if name is None:
        return image
    if name not in PREPROCESSORS:
        raise ImageProblem(
            f"There is no preprocessor '{name}'. Preprocessors: {', '.join((*PREPROCESSORS, *others))}.",
            code="unknown_preprocessor",
            param=param,
        )
    return PREPROCESSORS[name](image)
