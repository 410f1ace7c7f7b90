"""What a model is asked after an answer, and what of its reply can be shown.

Small models answer badly, so that nothing of a reply is taken on trust: what is not plainly a title, a tag or a
question is left out.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Characters of a title, a tag and a question.
TITLE = (2, 60)
TAG = (2, 24)
QUESTION = (8, 120)
MOST = 3
#: Tokens of a reply, and characters of the conversation that a model reads for it: a quarter of its length at most.
REPLY = 240
EXCERPT = 6_000

_ASK = {
    "titles": ("title", "what the conversation is about, in two to six words, without quotes or a full stop"),
    "tags": ("tags", "a list of one to three topics, each of one or two words in lower case"),
    "follow_ups": ("questions", "a list of three short questions that the user might ask next, each ending in ?"),
}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "title": {"type": "string"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "questions": {"type": "array", "items": {"type": "string"}},
}
_QUESTION_MARKS = "?？؟;՞"  # noqa: RUF001  # those of Chinese, Arabic, Greek and Armenian
_QUOTES = "\"'`“”„‘’«»*_# "  # noqa: RUF001
#: What a model says that repeats its instructions instead of following them.
_ECHO = re.compile(
    r"^(a |the )?(short |new )?(title|tags?|topics?|chat|conversation|questions?|json|string|untitled)\b", re.I
)
_MARKUP = re.compile(r"[<>{}\[\]|\\]|https?://|```")


@dataclass(frozen=True)
class Words:
    """What can be shown of a reply; empty where it cannot."""

    title: str = ""
    tags: list[str] = field(default_factory=list)
    follow_ups: list[str] = field(default_factory=list)


def request(
    wants: Sequence[str], question: str, answer: str, *, length: int | None, structured: bool
) -> dict[str, Any]:
    """The body of a chat completion that asks for these parts, without its model.

    `length` is the model's, in tokens; `structured` says that it can be held to a JSON schema.
    """
    parts = [_ASK[want] for want in wants]
    keys = "\n".join(f'"{key}": {words}' for key, words in parts)
    room = min(EXCERPT, length or EXCERPT)
    text = (
        f"Here is a conversation.\n\nUser: {_cut(question, room // 3)}\n\nAssistant: {_cut(answer, room * 2 // 3)}\n\n"
        f"Write a JSON object about it, in the language of the conversation, with:\n{keys}\n\n"
        "Write only the JSON object."
    )
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": REPLY,
        "temperature": 0.2,
        "stream_options": {"include_usage": True},
    }
    if structured:
        names = [key for key, _ in parts]
        schema = {"type": "object", "properties": {n: _SCHEMAS[n] for n in names}, "required": names}
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "about", "schema": {**schema, "additionalProperties": False}},
        }
        # What a model thinks first would take the room of its reply.
        body["chat_template_kwargs"] = {"enable_thinking": False}
    return body


def read(reply: str, question: str) -> Words:
    """What can be shown of a reply to the request about this question."""
    found = _object(reply)
    return Words(
        title=_title(found.get("title")),
        tags=_tags(found.get("tags")),
        follow_ups=_questions(found.get("questions"), question),
    )


def _object(reply: str) -> dict[str, Any]:
    """The first JSON object in a text that has one of the parts, whatever stands around it."""
    for match in re.finditer(r"\{", reply):
        try:
            found, _ = json.JSONDecoder(strict=False).raw_decode(reply, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.keys() & _SCHEMAS.keys():
            return found
    return {}


def _title(value: Any) -> str:
    title = _line(value, *TITLE).rstrip("." + _QUOTES)
    return "" if _ECHO.match(title) and len(title.split()) < 3 else title


def _tags(value: Any) -> list[str]:
    tags = (_line(tag, *TAG).lower() for tag in _strings(value))
    return _distinct(tag for tag in tags if len(tag.split()) <= 3 and not _ECHO.match(tag))[:MOST]


def _questions(value: Any, asked: str) -> list[str]:
    lines = (_line(line, *QUESTION) for line in _strings(value))
    found = _distinct(line for line in lines if line and line[-1] in _QUESTION_MARKS)
    fresh = [line for line in found if line.casefold() != asked.strip().casefold()]
    # One of three is no better than chance.
    return fresh[:MOST] if len(fresh) > 1 else []


def _line(value: Any, least: int, most: int) -> str:
    """A text that may stand on one line of a page, without the quotes and marks around it; else nothing."""
    if not isinstance(value, str):
        return ""
    text = value.strip().strip(_QUOTES)
    text = re.sub(r"^(\d{1,2}[.)]|[-•])\s+", "", text)
    fits = least <= len(text) <= most and not _MARKUP.search(text)
    fits = fits and all(unicodedata.category(c) not in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp") for c in text)
    return text if fits and any(c.isalpha() for c in text) and not _repeats(text) else ""


def _repeats(text: str) -> bool:
    """Whether it goes round in circles, as small models do."""
    words = text.casefold().split()
    return (len(words) > 3 and len(set(words)) <= len(words) // 2) or bool(re.search(r"(.)\1{4}", text))


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _distinct(lines: Iterable[str]) -> list[str]:
    return list({line.casefold(): line for line in lines if line}.values())


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
