"""The text of an answer as its pieces arrive: pieces carry their place, so that repeats and restarts do no harm."""

from dataclasses import dataclass, field


@dataclass
class Answer:
    """What a reader knows of an answer: its attempt, text and reasoning."""

    attempt: int = 0
    text: str = ""
    reasoning: str = ""
    #: Whether pieces were missing, so that only the database can tell.
    has_gap: bool = field(default=False, compare=False)

    def begin(self, attempt: int, text_at: int, reasoning_at: int) -> None:
        """A new attempt goes on from these places; what an earlier one wrote beyond them is void."""
        if attempt <= self.attempt:
            return
        self.has_gap = text_at > len(self.text) or reasoning_at > len(self.reasoning)
        self.attempt = attempt
        self.text, self.reasoning = self.text[:text_at], self.reasoning[:reasoning_at]

    def add(self, attempt: int, channel: str, at: int, piece: str) -> None:
        """Append a piece of `text` or `reasoning` that starts at character `at`. A repeated piece changes nothing."""
        if attempt != self.attempt:
            self.has_gap = self.has_gap or attempt > self.attempt
            return
        have = self.text if channel == "text" else self.reasoning
        if at > len(have):
            self.has_gap = True
        elif at + len(piece) > len(have):
            have += piece[len(have) - at :]
            if channel == "text":
                self.text = have
            else:
                self.reasoning = have

    def load(self, attempt: int, text: str, reasoning: str) -> None:
        """Take over what the database holds, where it knows more."""
        if attempt > self.attempt:
            self.attempt, self.text, self.reasoning = attempt, text, reasoning
        elif attempt == self.attempt:
            self.text = max(self.text, text, key=len)
            self.reasoning = max(self.reasoning, reasoning, key=len)
        self.has_gap = False
