"""LoRAs of a model: loaded on first use into its shared components, and switched per call."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.weights import tensors

# More than that are not kept in memory; the one that was not used for longest goes.
MAX_LOADED = 16


class Loras:
    """LoRAs by their name in the Model document. Not for two threads at once beyond ``check``."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)
        self._loaded: OrderedDict[str, str] = OrderedDict()
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return sorted(self._files)

    def check(self, name: str, param: str) -> None:
        """Raises ImageProblem unless there is such a LoRA and its file is whole."""
        if name not in self._files:
            known = ", ".join(self.names) or "none"
            raise ImageProblem(f"There is no LoRA '{name}'. LoRAs here: {known}.", code="unknown_lora", param=param)
        if name not in self._loaded:
            tensors(_file(self._files[name]))

    def activate(self, pipe: Any, wanted: Sequence[tuple[str, float]]) -> None:
        """Makes ``wanted``, names and weights, and no others count in the components of ``pipe``.

        Raises ImageProblem for one that does not fit the model.
        """
        with self._lock:
            adapters = [self._adapter(pipe, name, {name for name, _ in wanted}) for name, _ in wanted]
            if adapters:
                pipe.enable_lora()
                pipe.set_adapters(adapters, [weight for _, weight in wanted])
            elif self._loaded:
                pipe.disable_lora()

    def _adapter(self, pipe: Any, name: str, wanted: set[str]) -> str:
        if name not in self._loaded:
            self._make_room(pipe, wanted)
            # A name of our own: peft's may not hold dots.
            adapter = f"lora_{next(self._numbers)}"
            _load(pipe, name, _file(self._files[name]), adapter)
            self._loaded[name] = adapter
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def _make_room(self, pipe: Any, wanted: set[str]) -> None:
        for name in [name for name in self._loaded if name not in wanted][: max(0, len(self._loaded) + 1 - MAX_LOADED)]:
            pipe.delete_adapters(self._loaded.pop(name))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise ImageProblem(
            f"{path.name} holds {len(found)} safetensors files; a LoRA is one.", code="broken_lora", status=422
        )
    return found[0]


def _load(pipe: Any, name: str, path: Path, adapter: str) -> None:
    import torch
    from safetensors.torch import load_file

    tensors(path)
    weights = load_file(path)
    if not all(bool(torch.isfinite(tensor.float()).all()) for tensor in weights.values()):
        raise _broken(name, "it holds values that are no numbers")
    try:
        stays = _stays(pipe, weights)
        if not stays:
            pipe.load_lora_weights(weights, adapter_name=adapter)
    except Exception as error:
        with contextlib.suppress(Exception):
            pipe.delete_adapters(adapter)
        raise _broken(name, "it does not fit this model; is it for another family?") from error
    if stays:
        raise _broken(
            name,
            "it changes weights of the model itself, as FLUX's control LoRAs do, which can't be taken back when another"
            " image is drawn; use a ControlNet in its place",
        )
    if not _counts(pipe, adapter):
        pipe.delete_adapters(adapter)
        raise _broken(name, "it holds no weights for this model; is it for another family?")


def _stays(pipe: Any, weights: dict[str, Any]) -> bool:
    """Whether diffusers would write into the network itself, where switching adapters off leaves it: norms, and layers
    that are replaced by wider ones, which only FLUX's pipelines do.
    """
    from diffusers.loaders import FluxLoraLoaderMixin
    from torch.nn import Linear

    if not isinstance(pipe, FluxLoraLoaderMixin):
        return False
    found = pipe.lora_state_dict(dict(weights), return_alphas=True)[0]
    network = {name.removeprefix("transformer."): tensor for name, tensor in found.items()}
    if any(kind in name for name in network for kind in pipe._control_lora_supported_norm_keys):
        return True
    for name, layer in pipe.transformer.named_modules():
        place = name.replace(".base_layer", "")
        if isinstance(layer, Linear) and f"{place}.lora_A.weight" in network:
            inputs = network[f"{place}.lora_A.weight"].shape[1]
            outputs = network[f"{place}.lora_B.weight"].shape[0]
            if inputs > layer.in_features or outputs > layer.out_features:
                return True
    return False


def _counts(pipe: Any, adapter: str) -> bool:
    """Whether any of its weights found a place; those that find none are only warned of, and leave zeros behind."""
    modules = [getattr(pipe, name) for name, adapters in pipe.get_list_adapters().items() if adapter in adapters]
    ends = (f"lora_B.{adapter}.weight", f"lora_embedding_B.{adapter}")
    return any(
        bool(weight.any()) for module in modules for name, weight in module.named_parameters() if name.endswith(ends)
    )


def _broken(name: str, reason: str) -> ImageProblem:
    return ImageProblem(
        f"The LoRA '{name}' can't be used: {reason}.",
        code="broken_lora",
        param="loras",
        status=422,
        advice="Leave this LoRA out, or ask an operator to replace its file.",
    )
