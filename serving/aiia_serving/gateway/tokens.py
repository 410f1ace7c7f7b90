"""How many tokens a conversation is, by the model's own tokenizer and template."""

import json

import aiohttp

from aiia_serving.gateway.errors import ApiError, unavailable
from aiia_serving.gateway.requests import CHARACTERS_OF_IMAGE, TokenizeRequest
from aiia_serving.state import ModelState, State

_TIMEOUT_S = 10
# Of JSON, whose names and marks stand for those of a template.
_BYTES_OF_TOKEN = 4


async def count_tokens(session: aiohttp.ClientSession, model: ModelState, request: TokenizeRequest) -> int:
    """Tokens of the conversation, its template and the start of an answer included.

    Raises ``ApiError``: 404 for engines that have no tokenizer to ask, 503 while the model does not answer.
    """
    if model.engine != "vllm":
        raise ApiError(404, f"The model '{model.id}' has no tokenizer to ask.", code="no_tokenizer", param="model")
    if model.state is not State.READY or model.upstream is None:
        raise unavailable(f"The model '{model.id}' is {model.state}.", code="model_not_ready", retry_after_s=2)
    # vLLM has this route beside OpenAI's, not below it.
    url = model.upstream.base_url.rstrip("/").removesuffix("/v1") + "/tokenize"
    body = request.model_dump(mode="json", exclude_unset=True) | {"model": model.upstream.model}
    try:
        async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as response:
            response.raise_for_status()
            return int((await response.json())["count"])
    except (aiohttp.ClientError, TimeoutError, OSError, KeyError, ValueError) as error:
        raise unavailable(f"The model '{model.id}' does not count tokens now.", code="upstream_lost") from error


async def count_tokens_roughly(session: aiohttp.ClientSession, model: ModelState, request: TokenizeRequest) -> int:
    """As ``count_tokens``, but an estimate from lengths where no tokenizer answers.

    Raises ``ApiError`` 404 for a model that has no conversations.
    """
    try:
        return await count_tokens(session, model, request)
    except ApiError:
        if model.task != "chat":
            raise
        return _estimate(request)


def _estimate(request: TokenizeRequest) -> int:
    said = request.model_dump(mode="json", exclude_unset=True, exclude={"model"})
    images = 0
    for message in said["messages"]:
        if isinstance(parts := message.get("content"), list):
            message["content"] = [part for part in parts if part["type"] == "text"]
            images += len(parts) - len(message["content"])
    text = json.dumps(said, ensure_ascii=False).encode()
    return (images * CHARACTERS_OF_IMAGE + len(text)) // _BYTES_OF_TOKEN
