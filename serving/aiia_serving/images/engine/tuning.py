"""The quickest way to compute on this GPU, by measurement: the attention backend, and compiled blocks or not."""

import logging
import time
from typing import Any

from aiia_serving.images.job import Job
from aiia_serving.images.model import Model
from aiia_serving.images.works import assemble, prepare

log = logging.getLogger(__name__)

_BACKENDS = ("native", "_native_cudnn", "flash_hub", "flash", "sage")
_STEPS = 4
# Compiled blocks must save this part of the time.
_WORTH = 0.05
# So many sizes are compiled; further ones are computed without.
_SIZES = 8


def tune(model: Model, attention: str, compiling: str) -> dict[str, Any]:
    """Sets the model up and says how: ``attention``, ``compiled``, and the seconds of a step for each way tried.

    ``attention`` and ``compiling`` are the document's options. On a processor nothing is tried.
    """
    if model.device.type != "cuda":
        if attention != "auto":
            model.network.set_attention_backend(attention)
        return {"attention": attention, "compiled": False, "tried": {}}
    tried: dict[str, float] = {}
    for backend in _BACKENDS if attention == "auto" else (attention,):
        try:
            model.network.set_attention_backend(backend)
            tried[backend] = _step_s(model)
        except Exception as error:
            # A backend wants a package, or a younger GPU.
            log.info("attention backend %s is not for this machine: %s", backend, type(error).__name__)
    best = min(tried, key=lambda name: tried[name]) if tried else "native"
    model.network.set_attention_backend(best)
    compiled = compiling != "never" and _compile(model, tried, best, always=compiling == "always")
    log.info("attention backend %s, compiled: %s; seconds of a step: %s", best, compiled, tried)
    return {"attention": best, "compiled": compiled, "tried": tried}


def _compile(model: Model, tried: dict[str, float], best: str, *, always: bool) -> bool:
    import torch

    torch._dynamo.config.recompile_limit = _SIZES
    model.network.compile_repeated_blocks(dynamic=False)
    try:
        tried["compiled"] = _step_s(model)
    except Exception as error:
        log.warning("the model's blocks cannot be compiled: %s", type(error).__name__)
        tried["compiled"] = float("inf")
    if tried["compiled"] <= tried.get(best, float("inf")) * (1 - _WORTH) or (
        always and tried["compiled"] < float("inf")
    ):
        return True
    for module in model.network.modules():
        module._compiled_call_impl = None
    return False


def _step_s(model: Model) -> float:
    """Seconds of a step at the model's own size, once it is warm."""
    import torch

    batch = assemble(model, prepare(Job(work="generate", steps=_STEPS, seed=0), model).calls)
    times: list[float] = []

    def step(*_: Any) -> dict[str, Any]:
        torch.cuda.synchronize()
        times.append(time.perf_counter())
        return {}

    batch.run(step)
    return (times[-1] - times[1]) / (len(times) - 2)
