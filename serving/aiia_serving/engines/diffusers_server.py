"""The replica of image models. Prompts and images never go into logs."""

import logging
from pathlib import Path
from typing import Any

from aiia_serving.images.engine.common import Common
from aiia_serving.images.engine.engine import Engine
from aiia_serving.images.engine.http import http_application
from aiia_serving.images.engine.loading import Loader
from aiia_serving.images.engine.memory import Budget, Memory
from aiia_serving.images.engine.placement import GPU_PART, Placed, gpu_bytes, main_bytes
from aiia_serving.images.problem import ImageProblem
from aiia_serving.tracing import configure_tracing

log = logging.getLogger(__name__)


class Server:
    """Loads the document's own model when it starts, so that a replica that runs can draw; others when asked for.

    ``pipelines`` has the options of each by its name, with ``source``, the place of its files.
    """

    def __init__(self, model: str, pipelines: dict[str, dict[str, Any]], options: dict[str, Any]) -> None:
        import torch

        configure_tracing(model)
        torch.set_num_threads(options["threads"])
        said = int(options["memory_gb"] * 1e9) if options["memory_gb"] else None
        common = Common()
        loaders: dict[str, Loader | ImageProblem] = {}
        for name, pipeline in pipelines.items():
            try:
                loaders[name] = Loader(name, Path(pipeline["source"]), pipeline, said, common)
            except ImageProblem as problem:
                if name == model:
                    raise
                loaders[name] = problem
        self._memory = _memory(loaders, model, said)
        with self._memory.using(model):
            log.info("%s is loaded: %s", model, self._memory.states())
        self._model = model
        self._batch_size = options["batch_size"]

    async def __serve_build_asgi_app__(self) -> Any:
        from ray import serve

        replica = serve.get_replica_context().replica_id.unique_id
        return http_application(Engine(self._memory, self._model, self._batch_size), replica)


def _memory(loaders: dict[str, Loader | ImageProblem], own: str, said: int | None) -> Memory[Placed]:
    found = {name: loader for name, loader in loaders.items() if isinstance(loader, Loader)}
    on_gpu = gpu_bytes()
    room = said or main_bytes()
    if on_gpu and not said:
        # What an image takes beside the weights stays free.
        room = int(on_gpu * GPU_PART) - max(loader.working for loader in found.values())
        # One that does not fit even so is tried all the same.
        room = max(room, found[own].bytes)
    memory: Memory[Placed] = Memory(Budget(room, main_bytes() if on_gpu else None), found[own].placement.device)
    for name, loader in loaders.items():
        try:
            if isinstance(loader, ImageProblem):
                raise loader
            memory.add(name, loader.load, loader.bytes, loader.how, loader.common)
        except ImageProblem as problem:
            if name == own:
                raise
            memory.refuse(name, problem)
    return memory
