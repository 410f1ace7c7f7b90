"""What this machine has to run models with. Found without torch or Ray, which are slow to import."""

import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

_NVIDIA_SMI_ANSWERS_WITHIN_S = 20


@dataclass(frozen=True)
class Gpu:
    """``name`` as the driver gives it, such as ``NVIDIA L4``; all of its memory, in bytes."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """GPUs, memory in bytes, free bytes on the volume of the model cache, and processors that this process may use."""

    gpus: tuple[Gpu, ...]
    memory_bytes: int
    disk_free_bytes: int
    cpu_count: int

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "gpus": [asdict(gpu) for gpu in self.gpus]}


def this_machine(cache: Path) -> Machine:
    """This machine, with model files kept in ``cache``."""
    place = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    return Machine(
        gpus=gpus(),
        memory_bytes=_memory_bytes(),
        disk_free_bytes=shutil.disk_usage(place).free,
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


@cache
def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that are there; none without their driver. Read once."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(
            command, capture_output=True, text=True, timeout=_NVIDIA_SMI_ANSWERS_WITHIN_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(output.stdout)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """The GPUs of nvidia-smi's lines ``NVIDIA L4, 23034`` (MiB). Ones whose memory is not told are left out."""
    found = []
    for line in text.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdigit():
            found.append(Gpu(name.strip(), int(mebibytes) * 1024**2))
    return tuple(found)


def _memory_bytes() -> int:
    """The machine's memory, or the part of it that this container may use."""
    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
