"""What one request used, in the shape that the platform takes (``POST /internal/usage``)."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from aiia_serving.queue import Unit, Work, WorkClass

Kind = Literal["chat", "completions", "responses", "messages", "embeddings", "rerank", "images"]
Outcome = Literal["complete", "cancelled", "failed", "lost"]


@dataclass
class Usage:
    """Filled in while the request goes on. Tokens are the model's own count where it gives one."""

    request_id: str
    user: str
    key_id: str | None
    model: str
    work_class: WorkClass
    kind: Kind
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    gpu_ms: int = 0
    steps: int = 0
    # The moment of the first token, and of admission, by the monotonic clock.
    first_token_at: float | None = None
    admitted_at: float | None = None
    _began: float = field(default_factory=time.monotonic)
    _started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def note(self) -> str:
        """What ``lost`` has to know beside the work itself."""
        return json.dumps([self.key_id, self.model, self.kind])

    @classmethod
    def lost(cls, work: Work, cost: float) -> Self:
        """That of work whose gateway died when it had cost this much."""
        key_id, model, kind = json.loads(work.note)
        usage = cls(work.id, work.user, key_id, model, work.work_class, kind)
        if usage.unit == "gpu_ms":
            usage.gpu_ms = round(cost)
        elif kind in ("embeddings", "rerank"):
            usage.prompt_tokens = round(cost)
        else:
            usage.completion_tokens = round(cost / 2)
        usage.admit()
        return usage

    @property
    def unit(self) -> Unit:
        return "gpu_ms" if self.kind == "images" else "tokens"

    @property
    def began(self) -> float:
        return self._began

    @property
    def cost(self) -> float:
        """The true cost, in the queue's unit."""
        return float(self.gpu_ms) if self.unit == "gpu_ms" else float(self.prompt_tokens + 2 * self.completion_tokens)

    @property
    def queued_s(self) -> float:
        """Seconds until a slot was free; up to now while there is none."""
        return (self.admitted_at or time.monotonic()) - self._began

    @property
    def first_token_s(self) -> float | None:
        return None if self.first_token_at is None else self.first_token_at - self._began

    def admit(self) -> None:
        if self.admitted_at is None:
            self.admitted_at = time.monotonic()

    def take(self, reported: dict[str, Any]) -> None:
        """Takes the ``usage`` object of a model."""
        self.prompt_tokens = int(reported.get("prompt_tokens") or 0)
        self.completion_tokens = int(reported.get("completion_tokens") or 0)
        self.cached_tokens = int((reported.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    def record(self, outcome: Outcome) -> dict[str, Any]:
        first = self.first_token_s
        return {
            "request_id": self.request_id,
            "user_id": self.user,
            "key_id": self.key_id,
            "model": self.model,
            "class": self.work_class,
            "kind": self.kind,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "gpu_ms": self.gpu_ms,
            "steps": self.steps,
            "outcome": outcome,
            "started_at": self._started_at.isoformat(),
            "queued_ms": round(self.queued_s * 1000),
            "first_token_ms": None if first is None else round(first * 1000),
            "duration_ms": round((time.monotonic() - self._began) * 1000),
        }
