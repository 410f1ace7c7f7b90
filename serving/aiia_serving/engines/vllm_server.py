"""The replica of a vLLM model: Ray's own server, without the parts that only cost start-up time on one machine."""

import asyncio
import multiprocessing
from typing import Any

import vllm.v1.engine.utils as engine_processes
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

from aiia_serving.engines.spare import keep_spare


class LocalFiles(CallbackBase):  # type: ignore[misc]  # Ray is not typed
    """For models whose files are here: skips the task that would download them, a process start of its own."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class Engine(VLLMEngine):  # type: ignore[misc]
    """On CPUs the worker runs inside the engine's process, and that is forked from one that has imported vLLM."""

    def _start_async_llm_engine(self, engine_args: Any, engine_config: Any, placement_group: Any) -> Any:
        parallel = engine_config.parallel_config
        if parallel.distributed_executor_backend == "mp" and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
            engine_processes.get_mp_context = lambda: multiprocessing.get_context("forkserver")
        return super()._start_async_llm_engine(engine_args, engine_config, placement_group)


class Server(LLMServer):  # type: ignore[misc]
    """Starts the engine only: Ray's server would wait for a telemetry actor, which is off here."""

    _default_engine_cls = Engine

    async def _start_engine(self) -> None:
        if self.engine is None:
            raise ValueError("Engine is not set")
        await self.engine.start()
        self._sparing = asyncio.create_task(keep_spare())

    async def sleep(self, **kwargs: Any) -> None:
        """Frees the GPU and keeps the weights in the machine's memory. Raises ``ValueError`` where that cannot be."""
        self._require_sleep_mode()
        await super().sleep(**kwargs)

    async def wake_up(self) -> None:
        """Ends ``sleep``; at once if it does not sleep. Raises ``ValueError`` where it could not sleep."""
        self._require_sleep_mode()
        if await self.is_sleeping():
            await self.wakeup()

    def _require_sleep_mode(self) -> None:
        if not self._llm_config.engine_kwargs.get("enable_sleep_mode"):
            raise ValueError(
                f"{self._llm_config.model_id} cannot sleep: vllm.sleep is not set, and it works on GPUs only"
            )
