"""Anthropic's messages, for clients that speak nothing else."""

from starlette.types import Send

from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.generation import Generation
from aiia_serving.gateway.protocols import new_usage
from aiia_serving.gateway.protocols.messages_reply import MessagesReply
from aiia_serving.gateway.protocols.messages_request import CountRequest, MessagesRequest
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.requests import parse
from aiia_serving.gateway.services import Gateway
from aiia_serving.gateway.tokens import count_tokens_roughly


class Messages:
    """``POST /v1/messages``."""

    def reply(self, send: Send, request_id: str) -> MessagesReply:
        return MessagesReply(send, request_id)

    def exchange(
        self, gateway: Gateway, caller: Caller, reply: MessagesReply, body: bytes, deadline_s: float | None
    ) -> Generation:
        request = parse(MessagesRequest, body)
        reply.model = request.model
        usage = new_usage(caller, request.model, "messages")
        return Generation(gateway, caller, reply, usage, request.chat(), deadline_s)


class _Count:
    """Asks a model's tokenizer, which takes no turn: it uses nothing of the model."""

    def __init__(self, gateway: Gateway, caller: Caller, reply: MessagesReply, request: CountRequest) -> None:
        self.usage = new_usage(caller, request.model, "messages")
        self._gateway = gateway
        self._reply = reply
        self._request = request

    async def serve(self) -> None:
        model = await self._gateway.registry.get(self._request.model)
        count = await count_tokens_roughly(self._gateway.session, model, self._request.tokenize())
        await Reply.json(self._reply, {"input_tokens": count})


class CountTokens:
    """``POST /v1/messages/count_tokens``."""

    def reply(self, send: Send, request_id: str) -> MessagesReply:
        return MessagesReply(send, request_id)

    def exchange(
        self, gateway: Gateway, caller: Caller, reply: MessagesReply, body: bytes, deadline_s: float | None
    ) -> _Count:
        return _Count(gateway, caller, reply, parse(CountRequest, body))
