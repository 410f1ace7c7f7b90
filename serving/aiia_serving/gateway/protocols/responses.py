"""OpenAI's responses, of which nothing is kept."""

from starlette.types import Send

from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.generation import Generation
from aiia_serving.gateway.protocols import new_usage
from aiia_serving.gateway.protocols.responses_reply import ResponsesReply
from aiia_serving.gateway.protocols.responses_request import ResponsesRequest
from aiia_serving.gateway.requests import parse
from aiia_serving.gateway.services import Gateway


class Responses:
    """``POST /v1/responses``."""

    def reply(self, send: Send, request_id: str) -> ResponsesReply:
        return ResponsesReply(send, request_id)

    def exchange(
        self, gateway: Gateway, caller: Caller, reply: ResponsesReply, body: bytes, deadline_s: float | None
    ) -> Generation:
        request = parse(ResponsesRequest, body)
        reply.asked = request.told()
        usage = new_usage(caller, request.model, "responses")
        return Generation(gateway, caller, reply, usage, request.chat(), deadline_s)
