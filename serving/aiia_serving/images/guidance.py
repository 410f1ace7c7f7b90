"""A guidance for each image of a batch, in the place of the one number that pipelines take."""

from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary


class Guidances(float):
    """Pipelines ask whether it is above 1, which is so for all images of a batch or for none, and multiply by it the
    difference of two predictions, with the dimensions (image, …). Everywhere else it is the first image's.
    """

    _each: tuple[float, ...]

    def __new__(cls, each: Sequence[float]) -> "Guidances":
        made = super().__new__(cls, each[0])
        made._each = tuple(each)
        return made

    def __mul__(self, difference: Any) -> Any:
        import torch

        # In 32 bits, as torch multiplies by a number.
        scales = torch.tensor(self._each, device=difference.device, dtype=torch.float32)
        scaled = difference.float() * scales.view(-1, *[1] * (difference.dim() - 1))
        return scaled.to(difference.dtype)


# What takes the hooks off that were put on networks.
_hooks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def tell(networks: Iterable[Any], each: Sequence[float]) -> None:
    """From now on the networks are told these, one for each image, where a pipeline tells them one for all."""
    import torch

    def told(_network: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        one = kwargs.get("guidance")
        if one is not None:
            kwargs["guidance"] = torch.tensor(each, device=one.device, dtype=one.dtype)
        return args, kwargs

    for network in networks:
        if network in _hooks:
            _hooks.pop(network).remove()
        if len(set(each)) > 1:
            _hooks[network] = network.register_forward_pre_hook(told, with_kwargs=True)
