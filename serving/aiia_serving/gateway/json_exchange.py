"""A request whose answer is one JSON object, such as vectors or scores."""

from typing import Any

from aiia_serving.gateway.errors import upstream_failed
from aiia_serving.gateway.exchange import Exchange
from aiia_serving.gateway.upstream import ask
from aiia_serving.state import ModelState


class JsonExchange(Exchange):
    """The same question has the same answer, so another try is always safe."""

    def _question(self, model: ModelState) -> tuple[str, dict[str, Any]]:
        """The path below the model's base URL, and the body without the model's name."""
        raise NotImplementedError

    def _answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What the caller gets for the model's ``answer``; ``usage`` has been taken from it."""
        return answer

    async def _attempt(self, model: ModelState) -> None:
        path, question = self._question(model)
        payload = {"model": model.upstream.model if model.upstream else model.id, **question}
        limit_s = self._gateway.settings.gateway_stall_s
        answer = await ask(self._gateway.client, model, path, payload, self._headers, limit_s)
        self._take_usage(answer.get("usage") or {})
        try:
            result = self._answer(answer)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise upstream_failed("The model's answer is not of the expected shape.") from error
        await self._reply.json({**result, "model": self.usage.model})

    def _take_usage(self, reported: dict[str, Any]) -> None:
        # Some servers of scores report the sum alone.
        self.usage.take({"prompt_tokens": reported.get("total_tokens"), **reported})


def truncation(model: ModelState, *, wanted: bool) -> dict[str, Any]:
    """What asks ``model`` to cut texts that are too long for it."""
    if not wanted:
        return {}
    return {"truncate_prompt_tokens": -1} if model.engine == "vllm" else {"truncate": True}
