"""The gateway's view of the models: what the manager last said, followed by long polls."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp
from pydantic import ValidationError

from aiia_serving.gateway.errors import model_not_found, unavailable
from aiia_serving.queue import Queue
from aiia_serving.state import ModelState, State, StateReport

log = logging.getLogger(__name__)

_POLL_S = 25
_RETRY_S = 0.5
# How long the first request waits for the manager's first word.
_FIRST_WORD_S = 5


class Registry:
    """Known models by id. While the manager is away the last known state stands, so that requests go on."""

    def __init__(self, session: aiohttp.ClientSession, manager_url: str, token: str | None, queue: Queue) -> None:
        self._session = session
        self._url = manager_url.rstrip("/") + "/state"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._queue = queue
        self._models: dict[str, ModelState] = {}
        self._listeners: set[Callable[[], None]] = set()
        self._heard = asyncio.Event()
        self._task = asyncio.create_task(self._follow())

    async def models(self) -> list[ModelState]:
        """All models in the manager's order. Raises ``ApiError`` 503 while the manager was never heard."""
        await self._first_word()
        return list(self._models.values())

    async def get(self, model: str) -> ModelState:
        """One model. Raises ``ApiError`` 404 that lists what there is, or 503 while the manager was never heard."""
        await self._first_word()
        return self.current(model)

    def current(self, model: str) -> ModelState:
        """As ``get``, without waiting for the manager."""
        known = self._models.get(model)
        if known is None:
            raise model_not_found(model, self._models)
        return known

    @contextmanager
    def listen(self, notify: Callable[[], None]) -> Iterator[None]:
        """Calls ``notify`` after every change of any model."""
        self._listeners.add(notify)
        try:
            yield
        finally:
            self._listeners.discard(notify)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _first_word(self) -> None:
        if self._heard.is_set():
            return
        try:
            await asyncio.wait_for(self._heard.wait(), _FIRST_WORD_S)
        except TimeoutError:
            raise unavailable(
                "The model manager is not answering yet.", code="manager_unavailable", retry_after_s=2
            ) from None

    async def _follow(self) -> None:
        version = ""
        while True:
            try:
                timeout = aiohttp.ClientTimeout(total=_POLL_S + 10)
                query = {"after": version, "wait": str(_POLL_S)}
                async with self._session.get(
                    self._url, params=query, headers=self._headers, timeout=timeout
                ) as response:
                    response.raise_for_status()
                    report = StateReport.model_validate_json(await response.read())
            except (aiohttp.ClientError, TimeoutError, ValidationError) as error:
                log.warning("manager not reachable", extra={"fields": {"error": str(error)[:200]}})
                await asyncio.sleep(_RETRY_S)
                continue
            version = report.version
            self._take(report)

    def _take(self, report: StateReport) -> None:
        gone = self._models.keys() - {model.id for model in report.models}
        self._models = {model.id: model for model in report.models}
        for model_id in gone:
            self._queue.set_capacity(model_id, 0)
        for model in report.models:
            if model.base is None:
                self._queue.set_capacity(model.id, model.max_in_flight if model.state is State.READY else 0)
        self._heard.set()
        for notify in list(self._listeners):
            notify()
