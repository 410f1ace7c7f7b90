"""Generations: the durable making of an answer."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models, transaction
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from procrastinate.exceptions import AlreadyEnqueued

from aiia_platform.generations.prices import cost
from aiia_platform.observability import tracing

#: A worker that has not written for this long is taken for dead. It writes every second.
STALE_AFTER = timedelta(seconds=5)
#: Each worker holds the advisory lock (this, its number) while it lives; Postgres lets go of it when it dies.
PRESENCE = 20_600
_HOLDER_LIVES = """EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid::bigint = {table}.worker
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)"""
#: The Postgres channel on which workers hear whom to stop.
STOP_CHANNEL = "aiia_generation_stop"


class Fenced(Exception):
    """Another attempt owns this generation now; this one must leave it alone."""


class ChatBusy(Exception):
    """An answer is still being written in this chat."""


class StillRunning(Exception):
    """Another worker is alive and at work on this generation."""


def holder_lives(table: str) -> RawSQL:
    """Whether the worker lives that a row of this table names in its column `worker`."""
    return RawSQL(_HOLDER_LIVES.format(table=table), [PRESENCE], output_field=models.BooleanField())  # noqa: S611


class GenerationQuerySet(models.QuerySet["Generation"]):
    def active(self) -> Self:
        return self.filter(state__in=Generation.ACTIVE)

    def abandoned(self) -> Self:
        """Active ones that no living worker holds: taken by one that died or hangs, or queued and forgotten."""
        limit = Now() - STALE_AFTER
        return self.active().filter(
            models.Q(heartbeat_at__lt=limit)
            | models.Q(heartbeat_at=None, queued_at__lt=limit)
            | models.Q(models.Q(heartbeat_at__isnull=False), ~models.Q(holder_lives("generations_generation"))),
        )


class Generation(models.Model):
    """The making of one assistant message. It runs in a worker and outlives any process.

    `attempt` is the fencing number: each claim raises it, and a worker's writes apply only while theirs is current.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        STOPPED = "stopped"
        FAILED = "failed"

    ACTIVE = (State.QUEUED, State.RUNNING)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    message = models.OneToOneField("chats.Message", on_delete=models.CASCADE, related_name="generation")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="generations")
    model = models.CharField(max_length=200)
    #: Sampling parameters in OpenAI's names.
    params = models.JSONField(default=dict)
    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    #: The phase that the user sees, `{"phase": "queued" | "starting" | "thinking" | "writing" | …, …figures}`.
    status = models.JSONField(default=dict)
    #: What happened and what to do, when it failed.
    error = models.TextField(blank=True)
    advice = models.TextField(blank=True)
    attempt = models.PositiveIntegerField(default=0)
    #: The number of the worker that holds it.
    worker = models.PositiveIntegerField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    stop_requested = models.BooleanField(default=False)
    #: The token ids that the model read and those it wrote, for continuing exactly where it broke off.
    prompt_ids = ArrayField(models.IntegerField(), default=list)
    output_ids = ArrayField(models.IntegerField(), default=list)
    #: Why the model ended (`stop`, `length`, …); set as soon as it said so, which is before the answer is finished.
    finish_reason = models.CharField(max_length=30, blank=True)
    #: Position of the first message that was sent; earlier ones did not fit.
    context_from = models.PositiveIntegerField(default=0)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    #: By the prices that were configured when it ended; None without a price.
    cost = models.DecimalField(max_digits=14, decimal_places=8, null=True)
    queued_at = models.DateTimeField(db_default=Now())
    first_token_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    #: What the request that asked for it is called in logs and traces, as headers.
    trace = models.JSONField(default=dict)

    objects = GenerationQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["heartbeat_at"], name="generation_active", condition=models.Q(state__in=["queued", "running"])
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.state} {self.id}"

    @property
    def is_active(self) -> bool:
        return self.state in self.ACTIVE

    @property
    def duration_s(self) -> float | None:
        """Seconds from the question to the end of the answer."""
        return (self.finished_at - self.queued_at).total_seconds() if self.finished_at else None

    @classmethod
    def start(cls, *, message: Any, user: Any, model: str, params: dict[str, Any] | None = None) -> "Generation":
        """Queue the making of `message`. Call inside the transaction that stores it."""
        generation = cls.objects.create(
            message=message,
            user=user,
            model=model,
            params=params or {},
            status={"phase": "queued"},
            trace=tracing.headers(),
        )
        generation.enqueue()
        return generation

    def enqueue(self) -> None:
        """Ask for a worker. The job only wakes one up; what is to be done stands in this row."""
        from aiia_platform.generations.jobs import run_generation

        with suppress(AlreadyEnqueued), transaction.atomic():
            run_generation.configure(queueing_lock=str(self.id)).defer(generation_id=str(self.id))

    def copied(self, message_id: uuid.UUID) -> "Generation":
        """The same for a copy of its message: what was made once is neither made nor paid again."""
        return Generation(
            message_id=message_id,
            user_id=self.user_id,
            model=self.model,
            params=self.params,
            state=self.State.STOPPED if self.is_active else self.state,
            error=self.error,
            advice=self.advice,
            finish_reason=self.finish_reason,
            context_from=self.context_from,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            queued_at=self.queued_at,
            first_token_at=self.first_token_at,
            finished_at=self.finished_at or self.queued_at,
        )

    # The user's verbs

    @transaction.atomic
    def stop(self) -> None:
        """Stop writing and keep what is there. Changes nothing when it has ended."""
        row = Generation.objects.select_for_update().get(pk=self.pk)
        if row.state == self.State.QUEUED:
            row._end(self.State.STOPPED, {})
            row.save()
        elif row.is_active:
            row.stop_requested = True
            row.save(update_fields=["stop_requested"])
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, %s)", [STOP_CHANNEL, str(self.pk)])
        self.refresh_from_db()

    @transaction.atomic
    def retry(self) -> None:
        """Go on with one that failed or was stopped; the text so far is kept. Changes nothing otherwise, nor where
        a person has changed the text, which going on would void.

        Raises `ChatBusy` while another answer is being written in the chat.
        """
        from aiia_platform.afterwords.models import Afterword

        rows = Generation.objects.select_related("message__chat").select_for_update(of=("self", "message__chat"))
        row = rows.get(pk=self.pk)
        if row.state in (self.State.FAILED, self.State.STOPPED) and not row.message.edited_at:
            if Generation.objects.active().filter(message__chat=row.message.chat).exists():
                raise ChatBusy
            Afterword.give_way(row.message.chat)
            row.state, row.status = self.State.QUEUED, {"phase": "queued"}
            row.error = row.advice = ""
            row.trace = tracing.headers()
            row.stop_requested = False
            row.heartbeat_at = row.finished_at = row.first_token_at = None
            row.queued_at = Now()  # the database's clock
            row.save()
            row.enqueue()
        self.refresh_from_db()

    # The worker's verbs

    @classmethod
    @transaction.atomic
    def claim(cls, pk: uuid.UUID, worker: int, adopt: Callable[["Generation"], None]) -> "Generation | None":
        """Take a generation for a worker, or return None when there is nothing left to do.

        `adopt` may add to the row what the attempt before had sent but not stored.
        Raises `StillRunning` while another worker lives and writes.
        """
        row = cls.objects.select_for_update(of=("self",)).select_related("message__chat").filter(pk=pk).first()
        if row is None or not row.is_active:
            return None
        if row.heartbeat_at and not cls.objects.abandoned().filter(pk=pk).exists():
            raise StillRunning
        adopt(row)
        row.attempt += 1
        row.worker, row.state = worker, cls.State.RUNNING
        row.heartbeat_at = Now()  # the database's clock, the same for all workers
        row.save(
            update_fields=["attempt", "worker", "state", "heartbeat_at", "prompt_ids", "output_ids", "finish_reason"]
        )
        row.message.save(update_fields=["text", "reasoning"])
        return row

    @transaction.atomic
    def start_over(self) -> None:
        """Void what this attempt wrote and begin the next one, for models that cannot continue. Raises `Fenced`."""
        self.message.text = self.message.reasoning = ""
        self.output_ids, self.finish_reason = [], ""
        self._write(attempt=self.attempt + 1, heartbeat_at=Now())
        self.attempt += 1

    @transaction.atomic
    def write(self) -> bool:
        """Store text, tokens, status and heartbeat of this attempt. Returns whether a stop was asked for.

        Raises `Fenced` when the attempt is no longer current.
        """
        self._write(heartbeat_at=Now())
        return Generation.objects.values_list("stop_requested", flat=True).get(pk=self.pk)

    @transaction.atomic
    def finish(self, state: "Generation.State", status: dict[str, Any], error: str = "", advice: str = "") -> None:
        """End this attempt's work: text, tokens, timings and state in one transaction. Raises `Fenced`."""
        self._end(state, status, error, advice)
        self.cost = cost(self.model, self.prompt_tokens, self.completion_tokens)
        self._write(
            heartbeat_at=None,
            state=self.state,
            error=self.error,
            advice=self.advice,
            finished_at=self.finished_at,
            cost=self.cost,
        )
        type(self.message).objects.filter(pk=self.message.pk).index()
        if state == self.State.DONE:
            from aiia_platform.afterwords.models import Afterword

            Afterword.begin(self)

    @transaction.atomic
    def release(self) -> None:
        """Leave the work to any other worker, because this one shuts down. Raises `Fenced`."""
        self._write(heartbeat_at=None, state=self.State.QUEUED)

    def _end(self, state: "Generation.State", status: dict[str, Any], error: str = "", advice: str = "") -> None:
        self.state, self.status, self.error, self.advice = state, status, error, advice
        self.heartbeat_at = None
        self.finished_at = Now()

    def _write(self, **fields: Any) -> None:
        own = Generation.objects.filter(pk=self.pk, attempt=self.attempt, state__in=self.ACTIVE)
        updated = own.update(
            status=self.status,
            prompt_ids=self.prompt_ids,
            output_ids=self.output_ids,
            finish_reason=self.finish_reason,
            context_from=self.context_from,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            first_token_at=self.first_token_at,
            **fields,
        )
        if not updated:
            raise Fenced
        message = self.message
        type(message).objects.filter(pk=message.pk).update(text=message.text, reasoning=message.reasoning)


class Sent(models.Model):
    """The messages that a model was sent for an answer, word for word. Pictures are named instead of repeated."""

    generation = models.OneToOneField(Generation, on_delete=models.CASCADE, primary_key=True, related_name="sent")
    messages = models.JSONField()
    #: Tokens of them, and how many the model reads at most; None when nobody could count.
    tokens = models.PositiveIntegerField(null=True)
    limit = models.PositiveIntegerField(null=True)

    def __str__(self) -> str:
        return f"{len(self.messages)} messages"
