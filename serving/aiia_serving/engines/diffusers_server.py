"""The replica of an image model. Prompts and images never go into logs."""

import logging
from pathlib import Path
from typing import Any

from aiia_serving.images.engine.engine import Engine
from aiia_serving.images.engine.http import http_application
from aiia_serving.images.engine.loading import Loader
from aiia_serving.images.engine.memory import Budget, Memory
from aiia_serving.images.engine.placement import Placed, gpu_bytes, main_bytes

log = logging.getLogger(__name__)


class Server:
    """Loads the model when it starts, so that a replica that runs can draw."""

    def __init__(self, model: str, source: str, options: dict[str, Any]) -> None:
        loader = Loader(model, Path(source), options)
        on_gpu = gpu_bytes()
        room = int(options["memory_gb"] * 1e9) if options["memory_gb"] else on_gpu or main_bytes()
        budget = Budget(room, main_bytes() if on_gpu else None)
        self._memory: Memory[Placed] = Memory(budget, loader.placement.device)
        self._memory.add(model, loader.load, loader.bytes)
        with self._memory.using(model):
            log.info("%s is loaded: %s, %s", model, loader.placement, self._memory.states())
        self._model = model
        self._batch_size = options["batch_size"]

    async def __serve_build_asgi_app__(self) -> Any:
        return http_application(Engine(self._memory, self._model, self._batch_size))
