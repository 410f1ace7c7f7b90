"""A guidance for each image of a batch, in the place of the one number that pipelines take."""

from collections.abc import Sequence
from typing import Any


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
