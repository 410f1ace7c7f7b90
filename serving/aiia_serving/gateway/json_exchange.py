"""A request whose answer is one JSON object, such as vectors or scores."""

from abc import abstractmethod
from typing import Any

from aiia_serving.gateway.exchange import Exchange
from aiia_serving.gateway.upstream import ask
from aiia_serving.state import ModelState


class JsonExchange(Exchange):
    """Asks as often as is needed: the same question has the same answer, so another try is always safe."""

    @abstractmethod
    def _question(self, model: ModelState) -> tuple[str, dict[str, Any]]:
        """The path below the model's base URL, and the body without the model's name."""

    def _answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What the caller gets for the model's ``answer``."""
        return answer

    async def _attempt(self, model: ModelState) -> None:
        path, payload = self._question(model)
        name = model.upstream.model if model.upstream else model.id
        settings = self._gateway.settings
        answer = await ask(
            self._gateway.client, model, path, {"model": name, **payload}, self._headers, settings.gateway_stall_s
        )
        self.usage.take(answer.get("usage") or {})
        await self._reply.json({**self._answer(answer), "model": self.usage.model})
