"""``vllm serve``, with the worker inside the engine's process on CPUs, where the stack has it.

vLLM alone gives it a process of its own there, and the two speak through memory that both poll; on few cores that costs
a fifth of the speed, which would be no merit of the stack's.
"""

from typing import Any

from vllm.entrypoints.cli.main import main
from vllm.platforms.cpu import CpuPlatform

_its_own = CpuPlatform.check_and_update_config


def _worker_inside(vllm_config: Any) -> None:
    _its_own(vllm_config)
    if vllm_config.parallel_config.world_size == 1:
        vllm_config.parallel_config.distributed_executor_backend = "uni"


if __name__ == "__main__":
    CpuPlatform.check_and_update_config = staticmethod(_worker_inside)
    main()
