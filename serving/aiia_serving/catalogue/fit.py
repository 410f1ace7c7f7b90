"""Which models a machine can hold, and how: arithmetic over a ready document and a machine, without either at hand."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from aiia_serving.catalogue.machine import Gpu, Machine
from aiia_serving.catalogue.ready import Precision, Ready, entries

# Of a GPU's memory the engine takes this part; of that, activations, graphs and CUDA itself take the rest.
_GPU_PART = 0.9
_GPU_OVERHEAD_BYTES = 1.5e9
_OVERHEAD_OF_WEIGHTS = 0.03
# The context must be worth it, and two conversations of full length must fit.
_SHORTEST_CONTEXT = 4096
_CONVERSATIONS = 2
# Without a GPU more parameters than these write too slowly to be of use.
_CPU_PARAMETERS = 2.0e9
_CPU_PART = 0.75
_CPU_CONTEXT = 8192
_ENGINE_BYTES = {"chat": 2.5e9, "embedding": 1.0e9, "rerank": 1.0e9}
_DISK_RESERVE_BYTES = 0.5e9


@dataclass(frozen=True)
class Fit:
    """Whether and how a model fits a machine. ``memory_bytes`` is what it needs; on GPUs, on all of them together.

    What does not fit has the reason in words, what does has it where there is something to know.
    """

    fits: bool
    reason: str | None
    precision: Precision
    gpus: int
    max_model_len: int
    memory_bytes: int
    download_bytes: int


def fit(entry: Ready, machine: Machine) -> Fit:
    """The best way in which the machine holds the model: on few GPUs rather than in full precision."""
    with_gpus = entry.task == "chat" and machine.gpus
    found = _on_gpus(entry, machine.gpus) if with_gpus else _on_cpu(entry, machine)
    if found.fits and found.download_bytes + _DISK_RESERVE_BYTES > machine.disk_free_bytes:
        reason = f"its download takes {_gb(found.download_bytes)}, and {_gb(machine.disk_free_bytes)} of disk are free"
        return replace(found, fits=False, reason=reason)
    return found


def fits(machine: Machine) -> Iterator[tuple[Ready, Fit]]:
    """All ready models. One that does not fit names the largest that does: of its family, or else of all."""
    found = [(entry, fit(entry, machine)) for entry in entries().values()]
    able = [entry for entry, way in found if way.fits]
    for entry, way in found:
        if not way.fits:
            likes = [other for other in able if other.task == entry.task]
            near = [other for other in likes if other.family == entry.family] or likes
            if near:
                best = max(near, key=lambda other: other.parameters)
                way = replace(way, reason=f"{way.reason}; try {best.id}")
        yield entry, way


def document_for(entry: Ready, machine: Machine) -> dict[str, Any]:
    """The Model document, not yet validated, with which the machine runs the model. Also if it does not fit."""
    way = fit(entry, machine)
    spec: dict[str, Any] = {
        "title": entry.title,
        "task": entry.task,
        "engine": "vllm" if entry.task == "chat" else entry.task,
        "source": {"huggingface": entry.precisions[way.precision]},
    }
    if entry.task == "chat":
        spec["resources"] = {"gpus": way.gpus}
        spec["scaling"] = {"maxInFlight": 64 if way.gpus else 8}
        spec["vllm"] = {"maxModelLen": way.max_model_len, **entry.vllm}
        if not way.gpus:
            spec["vllm"] |= {
                "dtype": "bfloat16",
                "cpuKvCacheGb": max(1, -(-_context_bytes(entry, way.max_model_len) // 10**9)),
                "cpuThreads": max(1, machine.cpu_count // 2),
            }
    else:
        spec["scaling"] = {"minReplicas": 0, "maxInFlight": 32}
    return {"apiVersion": "aiia.dev/v1", "kind": "Model", "metadata": {"name": entry.id}, "spec": spec}


def _on_gpus(entry: Ready, gpus: tuple[Gpu, ...]) -> Fit:
    smallest = min(gpu.memory_bytes for gpu in gpus)
    counts = [count for count in (1, 2, 4, 8) if count <= len(gpus)]
    for count in counts:
        for precision in entry.precisions:
            usable = count * (smallest * _GPU_PART - _GPU_OVERHEAD_BYTES)
            context = _context_in(entry, usable - entry.size(precision) * (1 + _OVERHEAD_OF_WEIGHTS))
            if context >= min(_SHORTEST_CONTEXT, entry.context):
                return _fit(entry, precision, count, context)
    least = list(entry.precisions)[-1]
    found = _fit(entry, least, counts[-1], _SHORTEST_CONTEXT)
    if len(gpus) == 1:
        has = f"this machine has {_gb(smallest)}"
    else:
        has = f"this machine has {len(gpus)} GPUs of {_gb(smallest)}"
    return replace(found, fits=False, reason=f"needs {_gb(found.memory_bytes)} of GPU memory, {has}")


def _on_cpu(entry: Ready, machine: Machine) -> Fit:
    precision = next(iter(entry.precisions))
    context = min(entry.context, _CPU_CONTEXT) if entry.task == "chat" else entry.context
    needed = entry.size(precision) + _context_bytes(entry, context) + _ENGINE_BYTES[entry.task]
    found = Fit(True, None, precision, 0, context, int(needed), entry.size(precision))
    if entry.task == "chat":
        if precision != "bf16" or entry.parameters > _CPU_PARAMETERS:
            on_gpu = _fit(entry, list(entry.precisions)[-1], 1, _SHORTEST_CONTEXT)
            reason = f"needs a GPU with {_gb(on_gpu.memory_bytes)}, and this machine has none"
            return replace(on_gpu, fits=False, reason=reason)
        found = replace(found, reason="runs without a GPU, slowly")
    if needed > machine.memory_bytes * _CPU_PART:
        reason = f"needs {_gb(needed)} of memory, this machine has {_gb(machine.memory_bytes)}"
        return replace(found, fits=False, reason=reason)
    return found


def _fit(entry: Ready, precision: Precision, gpus: int, context: int) -> Fit:
    weights = entry.size(precision)
    inside = weights * (1 + _OVERHEAD_OF_WEIGHTS) + _context_bytes(entry, context) + gpus * _GPU_OVERHEAD_BYTES
    return Fit(True, None, precision, gpus, context, int(inside / _GPU_PART), weights)


def _context_in(entry: Ready, left: float) -> int:
    """Tokens of context that fit into ``left`` bytes beside the weights, in steps of 1024, at most the model's."""
    if left <= 0 or entry.kv is None:
        return 0
    tokens = int(left / (entry.kv.bytes_per_token * _CONVERSATIONS))
    return min(entry.context, tokens // 1024 * 1024)


def _context_bytes(entry: Ready, context: int) -> int:
    return entry.kv.bytes_per_token * context * _CONVERSATIONS if entry.kv else 0


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
