"""The replica of an embedding or rerank model. Texts never go into logs."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiia_serving.engines.http import http_application
from aiia_serving.engines.scoring import Rerank, load_scorer
from aiia_serving.engines.vectors import Embeddings, Vectors
from aiia_serving.tracing import configure_tracing


class Server:
    """Computes in batches of what waits: while one is computed the next one gathers."""

    def __init__(self, engine: str, model: str, folder: str, options: dict[str, Any]) -> None:
        configure_tracing(model)
        if engine == "embedding":
            vectors = Vectors(folder, options["max_length"], options["matryoshka"])
            endpoint: Embeddings | Rerank = Embeddings(
                model, vectors, _batched(vectors.encode, options["batch_size"]), options["batch_size"]
            )
        else:
            scorer = load_scorer(folder, options["max_length"])
            endpoint = Rerank(model, scorer, _batched(scorer.compute, options["batch_size"]), options["batch_size"])
        self._endpoint = endpoint

    async def __serve_build_asgi_app__(self) -> Any:
        return http_application(self._endpoint.path, self._endpoint)


def _batched(compute: Callable[[Sequence[Any]], list[Any]], size: int) -> Callable[[Any], Awaitable[Any]]:
    """A coroutine that computes one item together with the others that wait at the same time, off the event loop."""
    from ray import serve

    async def batch(items: list[Any]) -> list[Any]:
        return await asyncio.to_thread(compute, items)

    one: Callable[[Any], Awaitable[Any]] = serve.batch(batch, max_batch_size=size, batch_wait_timeout_s=0)
    return one
