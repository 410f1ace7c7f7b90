"""The shape in which gateways report usage."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

# Postgres stores no NUL, and 32 bits of a count.
Word = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]*$")]
Number = Annotated[int, Field(ge=0, lt=2**31)]
Milliseconds = Annotated[int, Field(ge=0, lt=2**63)]


class Record(BaseModel):
    """One request. `user_id` is what the platform told the gateway, or the name of a role that asked for itself."""

    model_config = ConfigDict(extra="ignore")

    request_id: Annotated[Word, StringConstraints(max_length=100)]
    user_id: Word
    key_id: UUID | None = None
    model: Annotated[Word, StringConstraints(max_length=200)]
    work_class: Literal["interactive", "api", "batch"] = Field(alias="class")
    kind: Literal["chat", "completions", "embeddings", "rerank", "responses", "messages", "images"]
    prompt_tokens: Number = 0
    completion_tokens: Number = 0
    cached_tokens: Number = 0
    gpu_ms: Milliseconds = 0
    steps: Number = 0
    outcome: Literal["complete", "cancelled", "failed", "lost"]
    started_at: AwareDatetime
    queued_ms: Milliseconds = 0
    first_token_ms: Milliseconds | None = None
    duration_ms: Milliseconds = 0


def read(records: list[Any]) -> tuple[list[Record], list[dict[str, str]]]:
    """The records that are whole, and for each other one its mistakes as `{"field", "message"}`."""
    whole: list[Record] = []
    mistakes: list[dict[str, str]] = []
    for number, record in enumerate(records):
        try:
            whole.append(Record.model_validate(record))
        except ValidationError as error:
            mistakes += [
                {"field": ".".join(map(str, ("records", number, *found["loc"]))), "message": found["msg"]}
                for found in error.errors(include_url=False, include_input=False)
            ]
    return whole, mistakes
