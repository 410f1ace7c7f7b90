"""How much of an answer its reader has, as it travels in the ids of events."""

import re
import zlib
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Position:
    """Characters of text and of reasoning.

    The checksum says of which text, so that one which was cut meanwhile is noticed.
    """

    attempt: int
    text: int
    reasoning: int
    checksum: int

    @classmethod
    def of(cls, attempt: int, text: str, reasoning: str) -> Self:
        return cls(attempt, len(text), len(reasoning), zlib.crc32(reasoning.encode(), zlib.crc32(text.encode())))

    @classmethod
    def parse(cls, value: str) -> "Position | None":
        """The position that an id stands for, or None when it is not one of ours."""
        if not (match := re.fullmatch(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})\.([0-9a-f]{1,8})", value, re.ASCII)):
            return None
        return cls(int(match[1]), int(match[2]), int(match[3]), int(match[4], 16))

    def __str__(self) -> str:
        return f"{self.attempt}.{self.text}.{self.reasoning}.{self.checksum:x}"

    def is_ahead(self, attempt: int, text: str) -> bool:
        """Whether its reader has more than is known here: Redis was lost, and Postgres is about a second behind."""
        return len(text) < self.text and attempt in (0, self.attempt)

    def seen(self, text: str, reasoning: str) -> tuple[str, str] | None:
        """The parts of `text` and `reasoning` that its reader has; None when that was another text."""
        parts = text[: self.text], reasoning[: self.reasoning]
        return parts if Position.of(self.attempt, *parts) == self else None
