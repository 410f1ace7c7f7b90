"""What a model gets to read: the conversation, as much of it as fits, with a prefix that stays the same."""

from dataclasses import dataclass

from aiia_platform.gateway import Gateway, GatewayError, StreamBroken
from aiia_platform.generations.models import Generation

#: Tokens that stay free for the answer, as a share of the model's length and at most.
RESERVE_SHARE = 0.25
RESERVE_MOST = 2048
#: Tokens that a chat template adds to a message, at most.
TEMPLATE = 32


@dataclass(frozen=True)
class Turn:
    position: int
    role: str
    text: str

    def as_message(self) -> dict[str, str]:
        return {"role": self.role, "content": self.text}


def turns(generation: Generation) -> list[Turn]:
    """The conversation up to the question, from where the last answer's context began."""
    chat = generation.message.chat
    before = chat.messages.filter(position__lt=generation.message.position)
    last = before.filter(role="assistant").select_related("generation").last()
    start = max(generation.context_from, last.generation.context_from if last else 0)
    rows = before.filter(position__gte=start).exclude(text="")
    return [Turn(*row) for row in rows.values_list("position", "role", "text")]


async def fit(gateway: Gateway, model: str, conversation: list[Turn], max_model_len: int | None) -> list[Turn]:
    """The newest turns that fit the model, beginning with a question.

    When they no longer fit, half of the room is freed at once, so that the prefix then stays the same, and cached, for
    many turns. Tokens are counted by the model's own tokenizer where it has one to ask.
    """
    if not max_model_len:
        return conversation
    budget = max_model_len - min(RESERVE_MOST, int(max_model_len * RESERVE_SHARE))
    # No token is shorter than a byte, so a short conversation needs no counting.
    if sum(len(turn.text.encode()) + TEMPLATE for turn in conversation) <= budget:
        return conversation
    if await _count(gateway, model, conversation) <= budget:
        return conversation
    kept = conversation
    while len(kept) > 1 and await _count(gateway, model, kept) > budget // 2:
        kept = kept[max(1, len(kept) // 4) :]
        while len(kept) > 1 and kept[0].role != "user":
            kept = kept[1:]
    return kept


async def _count(gateway: Gateway, model: str, conversation: list[Turn]) -> int:
    try:
        return await gateway.count_tokens(model, [turn.as_message() for turn in conversation])
    except (GatewayError, StreamBroken):
        # Three characters to a token is on the safe side for most languages.
        return sum(len(turn.text) // 3 + TEMPLATE for turn in conversation)
