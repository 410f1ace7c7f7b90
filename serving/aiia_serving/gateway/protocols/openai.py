"""OpenAI's chat completions and completions, which is what models speak themselves."""

from starlette.types import Send

from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.exchange import Exchange
from aiia_serving.gateway.generation import Generation
from aiia_serving.gateway.protocols import new_usage
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.requests import GenerationRequest, parse
from aiia_serving.gateway.services import Gateway
from aiia_serving.gateway.usage import Kind


class OpenAIText:
    """``POST /v1/chat/completions`` and ``POST /v1/completions``."""

    def __init__(self, kind: Kind, request: type[GenerationRequest]) -> None:
        self._kind = kind
        self._request = request

    def reply(self, send: Send, request_id: str) -> Reply:
        return Reply(send, request_id)

    def exchange(
        self, gateway: Gateway, caller: Caller, reply: Reply, body: bytes, deadline_s: float | None
    ) -> Exchange:
        request = parse(self._request, body)
        return Generation(gateway, caller, reply, new_usage(caller, request.model, self._kind), request, deadline_s)
