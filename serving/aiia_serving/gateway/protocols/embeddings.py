"""OpenAI's embeddings."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from starlette.types import Send

from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.json_exchange import JsonExchange, truncation
from aiia_serving.gateway.protocols import new_usage
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.requests import Strict, parse
from aiia_serving.gateway.services import Gateway
from aiia_serving.state import ModelState

# OpenAI's own bound.
_MOST_INPUTS = 2048

Input = str | list[str] | list[int] | list[list[int]]


def _bounded(given: Input) -> Input:
    if not given or (isinstance(given, list) and any(item in ("", []) for item in given)):
        raise ValueError("nothing in it may be empty")
    if isinstance(given, list) and not isinstance(given[0], int) and len(given) > _MOST_INPUTS:
        raise ValueError(f"at most {_MOST_INPUTS} inputs per request")
    return given


class EmbeddingsRequest(Strict):
    """``POST /v1/embeddings``. The input is a text, texts, the ids of a text's tokens, or such ids of several.

    ``truncate`` cuts inputs that are too long for the model instead of refusing them.
    """

    model: str
    input: Annotated[Input, AfterValidator(_bounded)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    truncate: bool | None = None
    user: str | None = None

    def estimated_tokens(self) -> float:
        """From lengths alone."""
        return sum(map(_tokens, [self.input] if isinstance(self.input, str) else self.input))


def _tokens(item: str | int | list[int]) -> float:
    if isinstance(item, str):
        return len(item) / 4
    return 1 if isinstance(item, int) else len(item)


class _Embedding(JsonExchange):
    needs = "embeddings"

    def __init__(
        self, gateway: Gateway, caller: Caller, reply: Reply, request: EmbeddingsRequest, deadline_s: float | None
    ) -> None:
        usage = new_usage(caller, request.model, "embeddings")
        cost = request.estimated_tokens()
        super().__init__(gateway, caller, reply, usage, estimated_cost=cost, deadline_s=deadline_s)
        self._payload = request.model_dump(exclude_unset=True, exclude={"model", "user", "truncate"})
        self._truncate = bool(request.truncate)

    def _question(self, model: ModelState) -> tuple[str, dict[str, Any]]:
        return "/embeddings", self._payload | truncation(model, wanted=self._truncate)


class Embeddings:
    """``POST /v1/embeddings``."""

    def reply(self, send: Send, request_id: str) -> Reply:
        return Reply(send, request_id)

    def exchange(
        self, gateway: Gateway, caller: Caller, reply: Reply, body: bytes, deadline_s: float | None
    ) -> JsonExchange:
        return _Embedding(gateway, caller, reply, parse(EmbeddingsRequest, body), deadline_s)
