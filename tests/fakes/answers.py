"""The deterministic language of the fake model: a token's text is a function of its position in the answer.

Token ``i`` of any answer has the id ``FIRST_ID + i``, so a prompt that ends with such ids is continued at the next
position, and a test can compare any text against the ids that came with it.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

FIRST_ID = 50_000
EOS_ID = 2


def token_text(position: int) -> str:
    """Text of the token at ``position`` (from 0). Some have none, as when a character is spread over two tokens."""
    match position % 16:
        case 7:
            return ""
        case 8:
            return " 🙂"
        case 15:
            return f" é{position}.\n\n"
        case _:
            return f" w{position}"


def answer_text(length: int, start: int = 0) -> str:
    """The text of the tokens ``start`` to ``length`` (exclusive)."""
    return "".join(token_text(position) for position in range(start, length))


def text_of_ids(ids: Iterable[int]) -> str:
    """The text that belongs to generated token ids; the end-of-sequence id has none."""
    return "".join(token_text(token - FIRST_ID) for token in ids if token >= FIRST_ID)


def tokenize(text: str) -> list[int]:
    """Prompt ids, one per word, all below ``FIRST_ID``."""
    return [100 + zlib.crc32(word.encode()) % 40_000 for word in text.split()]


def chat_prompt_ids(messages: Sequence[dict[str, Any]]) -> list[int]:
    """Prompt ids of a chat: a start id, then each message's role and words."""
    ids = [1]
    for message in messages:
        content = message.get("content") or ""
        parts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
        ids += tokenize(str(message.get("role")))
        for part in parts:
            ids += tokenize(part)
    return ids


def position_after(prompt_ids: Sequence[int]) -> int:
    """The answer position that a prompt of token ids goes on from: 0 unless it ends with generated ids."""
    return prompt_ids[-1] - FIRST_ID + 1 if prompt_ids and prompt_ids[-1] >= FIRST_ID else 0
