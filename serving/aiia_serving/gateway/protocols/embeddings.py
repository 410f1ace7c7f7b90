"""OpenAI's embeddings."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from starlette.types import Send

from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.exchange import Exchange
from aiia_serving.gateway.json_exchange import JsonExchange
from aiia_serving.gateway.protocols import new_usage
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.requests import Strict, parse
from aiia_serving.gateway.services import Gateway
from aiia_serving.state import ModelState

_MOST_INPUTS = 2048

_Text = Annotated[str, Field(min_length=1)]
_Ids = Annotated[list[int], Field(min_length=1)]


def _not_empty(given: Any) -> Any:
    if isinstance(given, list) and not 0 < len(given):
        raise ValueError("at least one input is needed")
    return given


class EmbeddingsRequest(Strict):
    """``POST /v1/embeddings``. The input is a text, a list of texts, the ids of tokens, or a list of lists of ids."""

    model: str
    input: Annotated[
        _Text | list[_Text] | list[int] | list[_Ids],
        BeforeValidator(_not_empty),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None

    def inputs(self) -> list[str | list[int]]:
        """One entry for each vector that is asked for."""
        if isinstance(self.input, str):
            return [self.input]
        return [self.input] if isinstance(self.input[0], int) else self.input  # type: ignore[list-item,return-value]
