"""A worker's part in an afterword: ask the model, behind everything that somebody waits for."""

import asyncio
import logging
import time
from contextlib import suppress
from uuid import UUID

from aiia_platform.afterwords import wording
from aiia_platform.afterwords.models import Afterword, Asked
from aiia_platform.config import config
from aiia_platform.db import in_db
from aiia_platform.gateway import Completion, Gateway, GatewayError, StreamBroken, fetch_models
from aiia_platform.generations.live import Publisher
from aiia_platform.generations.runner import BACK_OFF, BACK_OFF_MOST, OUTAGE
from aiia_platform.usage.quotas import exceeded_by

log = logging.getLogger(__name__)


class Writer:
    """Writes the afterwords of the worker with this number. Make it inside the event loop."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._gateway = Gateway()
        self._publisher = Publisher()
        self._asking: dict[UUID, asyncio.Task[Completion | None]] = {}

    async def close(self) -> None:
        await self._gateway.close()
        await self._publisher.close()

    def stop(self, pk: UUID) -> None:
        """Stop the one after this generation, if it is written here."""
        if pk in self._asking:
            self._asking[pk].cancel()

    async def write(self, pk: UUID) -> None:
        """Write what is wanted after a generation, unless another worker does or it is no longer wanted."""
        asked = await in_db(Afterword.take, pk, self._worker)
        if asked is None:
            return
        asking = self._asking[pk] = asyncio.create_task(self._ask(asked))
        try:
            await asyncio.wait({asking})
            said = None if asking.cancelled() else asking.result()
        except asyncio.CancelledError:
            asking.cancel()
            with suppress(*OUTAGE):
                await in_db(Afterword.release, pk)
            raise
        finally:
            del self._asking[pk]
        words = wording.read(said.text, asked.question) if said else None
        counts = (said.prompt_tokens, said.completion_tokens) if said else ()
        await in_db(Afterword.settle, pk, words, *counts)
        await self._publisher.publish(pk, type="afterword")

    async def _ask(self, asked: Asked) -> Completion | None:
        """The model's reply; None where it has none."""
        if await in_db(exceeded_by, asked.user_id):
            return None
        delay, since = BACK_OFF, time.monotonic()
        while True:
            try:
                return await self._complete(asked)
            except (GatewayError, StreamBroken) as error:
                final = isinstance(error, GatewayError) and error.is_final
                if final or time.monotonic() - since + delay > config().patience:
                    log.warning("no afterword by %s: %s", asked.model, type(error).__name__)
                    return None
            await asyncio.sleep(delay)
            delay = min(delay * 2, BACK_OFF_MOST)

    async def _complete(self, asked: Asked) -> Completion:
        model = next((model for model in await fetch_models(5) if model.id == asked.model), None)
        body = wording.request(
            asked.wants,
            asked.question,
            asked.answer,
            length=model.max_model_len if model else None,
            structured=bool(model and model.structured),
        )
        body["model"] = asked.model
        return await self._gateway.complete(body, user=asked.user_id, patience=config().patience, work="batch")
