"""A replica of a small engine without Ray: ``python -m tests.serving.alone embedding|images FOLDER``.

``it`` is the model in the folder. That for embeddings fails on texts of more than 8 tokens. Beside that for images
there is ``lost``, whose files are gone when they are to be loaded. Prints its port.
"""

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.engines import hook
from aiia_serving.engines.diffusers import places
from aiia_serving.engines.http import http_application
from aiia_serving.engines.vectors import Embeddings, Vectors
from aiia_serving.tracing import configure_tracing


async def embedding(folder: Path) -> Any:
    vectors = Vectors(str(folder), None)

    async def encode(tokens: list[int]) -> Any:
        if len(tokens) > 8:
            raise RuntimeError(f"out of memory at {tokens}")
        (vector,) = await asyncio.to_thread(vectors.encode, [tokens])
        return vector

    return http_application("/v1/embeddings", Embeddings("it", vectors, encode, 8))


async def images(folder: Path) -> Any:
    from aiia_serving.images.engine.engine import Engine
    from aiia_serving.images.engine.http import http_application as image_application
    from aiia_serving.images.engine.loading import Loader
    from aiia_serving.images.engine.memory import Budget, Memory
    from aiia_serving.images.engine.placement import Placed

    def gone(*_: Any) -> Any:
        raise FileNotFoundError

    loader = Loader("it", folder, DiffusersOptions().model_dump() | places(DiffusersOptions(), folder))
    memory: Memory[Placed] = Memory(Budget(10**9))
    memory.add("it", loader.load, loader.bytes)
    memory.add("lost", gone, loader.bytes)
    with memory.using("it"):
        return image_application(Engine(memory, "it"), "replica-1")


async def main() -> None:
    hook.setup()
    configure_tracing("it")
    make = {"embedding": embedding, "images": images}[sys.argv[1]]
    listener = socket.create_server(("127.0.0.1", 0))
    app = await make(Path(sys.argv[2]))
    print(listener.getsockname()[1], flush=True)
    await uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).serve([listener])


if __name__ == "__main__":
    asyncio.run(main())
