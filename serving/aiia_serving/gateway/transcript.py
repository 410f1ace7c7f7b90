"""What a model has sent so far, kept as it came: read only when a stream breaks, or ends without its usage."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from aiia_serving.gateway.sse import data_of

# A stream that has sent more is not continued; keeping it would cost more than it is worth.
_MAX_BYTES = 32 * 1024 * 1024


@dataclass
class Written:
    """The choices of a stream: ids of its prompt and of its own tokens, and whether its frames were plain text.

    ``ids`` reach to the last token whose text is out: a model may hold text back that may be part of a stop string or
    of a character. ``finished`` are the indexes of the choices that are complete.
    """

    head: dict[str, Any] = field(default_factory=dict)
    prompt_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    frames: int = 0
    is_text: bool = True
    finished: frozenset[int] = frozenset()


class Transcript:
    """Whole frames in order, after what was ``written`` before them.

    An answer that goes on needs a new one: the ids that were held back are written a second time by the continuation.
    """

    def __init__(self, written: Written | None = None) -> None:
        self._before = written or Written()
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, frames: bytes) -> None:
        if self._size <= _MAX_BYTES:
            self._pieces.append(frames)
            self._size += len(frames)

    @property
    def pieces(self) -> int:
        """How often something came: about the number of tokens."""
        return len(self._before.ids) + len(self._pieces)

    @property
    def is_whole(self) -> bool:
        return self._size <= _MAX_BYTES

    def read(self) -> Written:
        """Everything so far. Frames that are not JSON are skipped: they reached the caller as they were."""
        written = replace(self._before, ids=[*self._before.ids])
        held: list[int] = []
        for data in data_of(b"".join(self._pieces)):
            try:
                frame = json.loads(data)
                choices = frame.get("choices") or [{}]
            except (ValueError, AttributeError):
                continue
            written.head = written.head or {key: frame.get(key) for key in ("id", "created", "model")}
            written.prompt_ids = (
                written.prompt_ids or frame.get("prompt_token_ids") or choices[0].get("prompt_token_ids") or []
            )
            for choice in choices:
                held += choice.get("token_ids") or []
                delta = choice.get("delta") or {}
                text = delta.get("content") or choice.get("text")
                thought = delta.get("reasoning") or delta.get("reasoning_content")
                if text or thought or delta.get("tool_calls"):
                    written.frames += 1
                    written.ids += held
                    held = []
                    written.is_text = bool(text) and not thought and not delta.get("tool_calls")
                if choice.get("finish_reason") is not None:
                    written.finished |= {choice.get("index", 0)}
                    written.ids += held
                    held = []
        return written
