"""What a model gets to read: the conversation, as much of it as fits, with a prefix that stays the same."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from aiia_platform.db import in_db
from aiia_platform.gateway import Gateway, GatewayError, StreamBroken
from aiia_platform.generations.models import Generation

#: Tokens that stay free for the answer, as a share of the model's length and at most.
RESERVE_SHARE = 0.25
RESERVE_MOST = 2048
#: Tokens that a chat template adds to a message, at most.
TEMPLATE = 32
#: Tokens of a picture, where nobody can count them.
PICTURE = 1024


@dataclass(frozen=True)
class Turn:
    position: int
    role: str
    text: str
    #: Pictures as `(name, data URL)`.
    images: tuple[tuple[str, str], ...] = ()
    #: Id of the message.
    id: Any = None

    def as_message(self, *, named: bool = False) -> dict[str, Any]:
        """In OpenAI's shape. `named`: with the names of pictures instead of their content."""
        if not self.images:
            return {"role": self.role, "content": self.text}
        parts: list[dict[str, Any]] = [{"type": "text", "text": self.text}] if self.text else []
        urls = [name if named else url for name, url in self.images]
        return {"role": self.role, "content": parts + [{"type": "image_url", "image_url": {"url": u}} for u in urls]}


@dataclass(frozen=True)
class Conversation:
    """What may be sent: the system prompt, a summary of what came before the turns, and the turns."""

    turns: list[Turn]
    system: str = ""
    summary: str = ""
    #: The chat's policy; see `chats.params.clean_context`.
    policy: dict[str, Any] = field(default_factory=dict)

    def head(self) -> list[Turn]:
        """What stands before the turns."""
        parts = [self.system, f"Summary of the conversation so far:\n\n{self.summary}" if self.summary else ""]
        text = "\n\n".join(filter(None, parts))
        return [Turn(-1, "system", text)] if text else []


def turns(generation: Generation) -> list[Turn]:
    """The conversation up to the question, from where the last answer's context began."""
    return conversation(generation).turns


def conversation(generation: Generation) -> Conversation:
    """The branch up to the question, from where the last answer's context or the newest summary leaves off."""
    message = generation.message
    return branch(message.chat, message.parent_id, generation.context_from)


def branch(chat: Any, leaf: UUID | None, context_from: int = 0) -> Conversation:
    """The same of a branch up to the message `leaf`; it begins at the position `context_from` at the earliest."""
    from aiia_platform.chats import tree

    before = tree.branch(leaf).filter(deleted_at=None)
    last = before.filter(role="assistant", generation__isnull=False).to_read().last()
    start = max(context_from, last.generation.context_from if last else 0)
    summary = chat.summary(leaf)
    if chat.context.get("strategy") == "summary":
        start = summary.message.position + 1 if summary else 0
    found = [_turn(row) for row in before.filter(position__gte=start).defer("search").prefetch_related("attachments")]
    return Conversation(
        [turn for turn in found if turn.text or turn.images],
        chat.system_prompt,
        summary.text if summary else "",
        chat.context,
    )


def _turn(message: Any) -> Turn:
    from aiia_platform.chats import files

    texts, images = [], []
    for attached in message.attachments.all():
        if attached.is_image:
            content = base64.b64encode(attached.content).decode()
            images.append((attached.name, f"data:{attached.content_type};base64,{content}"))
        else:
            texts.append(f"{attached.name}:\n```\n{files.text(attached.content)}\n```")
    text = "\n\n".join(filter(None, [*texts, message.text]))
    return Turn(message.position, message.role, text, tuple(images), message.pk)


def as_messages(turns: list[Turn], *, named: bool = False) -> list[dict[str, Any]]:
    """Turns in OpenAI's shape. Several of one role in a row become one, since many templates take no others."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            before = merged.pop()
            text = "\n\n".join(filter(None, (before.text, turn.text)))
            turn = replace(before, text=text, images=before.images + turn.images)
        merged.append(turn)
    return [turn.as_message(named=named) for turn in merged]


def blind(conversation: Conversation) -> Conversation:
    """For a model that sees no pictures: it is told which there were."""
    told = []
    for turn in conversation.turns:
        names = "\n".join(f"[Picture {name}, which this model cannot see]" for name, _ in turn.images)
        told.append(replace(turn, text="\n\n".join(filter(None, (names, turn.text))), images=()))
    return replace(conversation, turns=told)


async def compose(gateway: Gateway, model: str, found: Conversation, max_model_len: int | None) -> list[Turn]:
    """What is sent: the head, and the turns that the chat's policy and the model's length leave. It begins with them
    at a question.
    """
    head, kept = found.head(), found.turns
    match found.policy.get("strategy"):
        case "last":
            kept = _from_question(kept[-int(found.policy["messages"]) :])
        case "budget":
            kept = await fit(gateway, model, kept, None, budget=int(found.policy["tokens"]))
    # The head is always sent, so that the turns share what it leaves.
    taken = await count(gateway, model, head) if head and max_model_len else 0
    return head + await fit(gateway, model, kept, max_model_len, taken=taken)


async def measure(gateway: Gateway, model: str, found: Conversation, max_model_len: int | None) -> int:
    """Tokens of what a model would be sent of a conversation. Raises like `Gateway.stream` where it cannot count."""
    return await _counted(gateway, model, await compose(gateway, model, found, max_model_len))


def room(max_model_len: int) -> int:
    """Tokens of a model's length that are there for what it reads."""
    return max_model_len - min(RESERVE_MOST, int(max_model_len * RESERVE_SHARE))


async def fit(
    gateway: Gateway,
    model: str,
    conversation: list[Turn],
    max_model_len: int | None,
    *,
    taken: int = 0,
    budget: int | None = None,
) -> list[Turn]:
    """The newest turns that fit the model, beside `taken` tokens, or a budget, beginning with a question.

    When they no longer fit, half of the room is freed at once, so that the prefix then stays the same, and cached, for
    many turns. Tokens are counted by the model's own tokenizer where it has one to ask.
    """
    if budget is None:
        if not max_model_len:
            return conversation
        budget = max(1, room(max_model_len) - taken)
    # No token is shorter than a byte, so a short conversation needs no counting.
    if sum(len(turn.text.encode()) + TEMPLATE + PICTURE * len(turn.images) for turn in conversation) <= budget:
        return conversation
    if await count(gateway, model, conversation) <= budget:
        return conversation
    kept = conversation
    while len(kept) > 1 and await count(gateway, model, kept) > budget // 2:
        kept = _from_question(kept[max(1, len(kept) // 4) :])
    return kept


def _from_question(kept: list[Turn]) -> list[Turn]:
    while len(kept) > 1 and kept[0].role != "user":
        kept = kept[1:]
    return kept


async def count(gateway: Gateway, model: str, turns: list[Turn]) -> int:
    """Tokens of these turns, template included."""
    try:
        return await _counted(gateway, model, turns)
    except (GatewayError, StreamBroken, TimeoutError):
        # Three characters to a token is on the safe side for most languages.
        return _of_pictures(turns) + sum(len(turn.text) // 3 + TEMPLATE for turn in turns)


async def _counted(gateway: Gateway, model: str, turns: list[Turn]) -> int:
    plain = as_messages([replace(turn, images=()) for turn in turns])
    return _of_pictures(turns) + await gateway.count_tokens(model, plain)


def _of_pictures(turns: list[Turn]) -> int:
    return PICTURE * sum(len(turn.images) for turn in turns)


SUMMARISE = (
    "Summarise the conversation so far for yourself, so that you can go on without reading it again: what was asked, "
    "what was found and decided, names, figures and open points. Write only the summary, in the language of the "
    "conversation."
)


async def shorten(
    gateway: Gateway,
    model: str,
    found: Conversation,
    max_model_len: int | None,
    write: Callable[[list[dict[str, Any]]], Any],
) -> Conversation:
    """Replace the older half of a conversation that no longer fits by a summary, which is kept with the chat.

    `write` has the model answer messages. Where that fails, the conversation comes back as it was.
    """
    if not max_model_len or len(found.turns) < 4:
        return found
    budget = room(max_model_len)
    if await count(gateway, model, found.head() + found.turns) <= budget:
        return found
    kept = found.turns
    while len(kept) > 1 and await count(gateway, model, kept) > budget // 2:
        kept = _from_question(kept[max(1, len(kept) // 4) :])
    older = found.turns[: len(found.turns) - len(kept)]
    if not older:
        return found
    ask = Turn(older[-1].position, "user", SUMMARISE)
    readable = await fit(gateway, model, older, max_model_len, taken=256)
    text = str(await write(as_messages([*found.head(), *readable, ask]))).strip()
    if not text:
        return found
    await in_db(_keep_summary, older[-1].id, model, text)
    return replace(found, turns=kept, summary=text)


def _keep_summary(message_id: Any, model: str, text: str) -> None:
    from aiia_platform.chats.models import Summary

    Summary.objects.update_or_create(message_id=message_id, defaults={"model": model, "text": text})
