"""How full a model's context is with a chat, beside the composer."""

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from aiia_platform.chats.models import Message
from aiia_platform.gateway import Gateway, GatewayError, ModelInfo, StreamBroken, list_models_sync
from aiia_platform.generations import context
from aiia_platform.generations.models import Sent
from aiia_web.access import SignedInRequest, signed_in

#: Seconds for which another model may count. No page waits for it, only the gauge.
WAIT = 2.0


@dataclass(frozen=True)
class Gauge:
    """Tokens of a chat as the model that is asked next counts them, and how many it can read."""

    used: int
    limit: int

    @property
    def is_nearly_full(self) -> bool:
        """Whether the next answer may be made without the oldest messages."""
        return self.used >= context.room(self.limit)


def gauge(message: Message | None) -> dict[str, Any]:
    """What `components/gauge.html` shows after an answer: what its model itself counted, without asking anybody."""
    generation = getattr(message, "generation", None)
    if message is None or generation is None or generation.is_active:
        return {}
    limit = Sent.objects.filter(generation=generation).values_list("limit", flat=True).first()
    used = generation.prompt_tokens + generation.completion_tokens
    found = Gauge(min(used, limit), limit) if limit and used else None
    return {"measured": message, "gauge": found}


@signed_in
@require_safe
def show(request: SignedInRequest, message_id: UUID) -> HttpResponse:
    """The gauge after a message for the model that is chosen now."""
    message = get_object_or_404(Message.objects.of(request.user).select_related("chat", "generation"), pk=message_id)
    generation = getattr(message, "generation", None)
    if generation is None:
        raise Http404
    name = request.GET.get("model", "")
    if name == generation.model:
        shown = gauge(message)
    else:
        model = next((model for model in list_models_sync() if model.id == name), None)
        shown = {"measured": message, "gauge": _measure(message, model) if model else None}
    return render(request, "components/gauge.html", shown)


def _measure(message: Message, model: ModelInfo) -> Gauge | None:
    """What a model that did not write the answer counts; None where it cannot, or not in time."""
    if not model.max_model_len:
        return None
    found = context.branch(message.chat, message.pk)
    used = async_to_sync(_count)(found, model.id, model.max_model_len)
    return Gauge(min(used, model.max_model_len), model.max_model_len) if used is not None else None


async def _count(found: context.Conversation, model: str, length: int) -> int | None:
    gateway = Gateway()
    try:
        async with asyncio.timeout(WAIT):
            return await context.measure(gateway, model, found, length)
    except (GatewayError, StreamBroken, TimeoutError):
        return None
    finally:
        await gateway.close()
