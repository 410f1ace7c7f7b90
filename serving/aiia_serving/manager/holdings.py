"""What replicas of image models have in memory: asked of them again and again, since they tell nobody."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

import aiohttp
from pydantic import BaseModel, ValidationError

from aiia_serving.state import Held

_ASK_EVERY_S = 1.0
# A replica that computes may take its time.
_ANSWERS_WITHIN_S = 5.0
# Each answer comes from one replica, whichever Serve picks.
_REMEMBERED_S = 30.0


class _Holding(Held):
    name: str
    replica: str = ""


class _Answer(BaseModel):
    replica: str
    models: list[_Holding]


class Holdings:
    """Asks the applications that ``running`` names, at Serve's ``port``, for as long as ``run`` runs.

    Calls ``changed`` whenever ``of`` has become another.
    """

    def __init__(self, port: int, running: Callable[[], Iterable[str]], changed: Callable[[], None]) -> None:
        self._port = port
        self._running = running
        self._changed = changed
        # By application and replica: when it answered, and what it has by the model's name.
        self._heard: dict[str, dict[str, tuple[float, dict[str, Held]]]] = {}

    def of(self, application: str, model: str) -> tuple[Held, ...]:
        """Where the application's replicas have the model, as far as they have said."""
        replicas = sorted(self._heard.get(application, {}).items())
        return tuple(models[model] for _, (_, models) in replicas if model in models)

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWERS_WITHIN_S)) as session:
            while True:
                running = set(self._running())
                before = {name: self._models(name) for name in self._heard.keys() | running}
                self._heard = {name: heard for name, heard in self._heard.items() if name in running}
                await asyncio.gather(*(self._ask(session, name) for name in running))
                if any(self._models(name) != models for name, models in before.items()):
                    self._changed()
                await asyncio.sleep(_ASK_EVERY_S)

    def _models(self, name: str) -> dict[str, dict[str, Held]]:
        return {replica: models for replica, (_, models) in self._heard.get(name, {}).items()}

    async def _ask(self, session: aiohttp.ClientSession, name: str) -> None:
        url = f"http://127.0.0.1:{self._port}/{name}/v1/images/states"
        # What a replica cannot say now it says later.
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValidationError):
            async with session.get(url) as response:
                response.raise_for_status()
                answer = _Answer.model_validate_json(await response.read())
            models = {
                one.name: Held.model_validate({**one.model_dump(exclude={"name"}), "replica": answer.replica})
                for one in answer.models
            }
            now = time.monotonic()
            known = {
                replica: heard for replica, heard in self._heard.get(name, {}).items() if now - heard[0] < _REMEMBERED_S
            }
            self._heard[name] = known | {answer.replica: (now, models)}
