"""OpenAI's images: generations, edits and variations."""

from starlette.types import Send

from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.images.exchange import Images
from aiia_serving.gateway.images.form import is_form, read_form
from aiia_serving.gateway.images.reply import ImageReply
from aiia_serving.gateway.images.request import ImageRequest, read
from aiia_serving.gateway.services import Gateway


class OpenAIImages:
    """``POST /v1/images/…``, whose bodies are JSON or forms."""

    def __init__(self, request: type[ImageRequest]) -> None:
        self._request = request

    def reply(self, send: Send, request_id: str) -> ImageReply:
        return ImageReply(send, request_id)

    def exchange(
        self, gateway: Gateway, caller: Caller, reply: ImageReply, body: bytes, deadline_s: float | None
    ) -> Images:
        given = read_form(body, reply.asked_with) if is_form(reply.asked_with) else body
        reply.request = read(self._request, given)
        return Images(gateway, caller, reply, reply.request, deadline_s)
