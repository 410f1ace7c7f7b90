"""Places inside of long computations where a run that nobody waits for ends, such as between a VAE's blocks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiia_serving.images.engine.gate import Turn
from aiia_serving.images.model import Model

_current = threading.local()


@contextmanager
def watched(turn: Turn) -> Iterator[None]:
    """Inside, modules that were given to ``install`` raise ``Cancelled`` in this thread once the turn is cancelled."""
    _current.turn = turn
    try:
        yield
    finally:
        _current.turn = None


def install(model: Model) -> None:
    """Puts checks before each large part of the VAE and of the text encoders; the network has one after each step."""
    import torch

    for name, component in model.components.items():
        if name == model.family.network or not isinstance(component, torch.nn.Module):
            continue
        for module in component.modules():
            if type(module).__name__ in _PARTS and _check not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_check)


_PARTS = {
    "AutoencoderKL",
    "ResnetBlock2D",
    "CLIPEncoderLayer",
    "T5Block",
    "UpDecoderBlock2D",
    "UNetMidBlock2D",
}


def _check(*_: Any) -> None:
    turn: Turn | None = getattr(_current, "turn", None)
    if turn is not None:
        turn.check()
