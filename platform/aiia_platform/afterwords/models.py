"""Afterwords: what a model says of a chat once its answer is there. Title, tags and questions to go on with."""

import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from django.contrib.postgres.fields import ArrayField
from django.db import connection, models, transaction
from django.db.models.functions import Now
from procrastinate.exceptions import AlreadyEnqueued

from aiia_platform.afterwords.wording import Words
from aiia_platform.generations.models import STOP_CHANNEL, Generation, holder_lives
from aiia_platform.generations.prices import cost
from aiia_platform.options.models import current

if TYPE_CHECKING:
    from aiia_platform.chats.models import Chat

#: A title that a model cannot make of the first questions is not asked for again and again: position of the last
#: answer after which it is.
TRIED_UNTIL = 5
#: As many are queued again at once.
AT_ONCE = 100
#: One that no worker has taken for this long was forgotten.
FORGOTTEN_AFTER = timedelta(seconds=5)


@dataclass(frozen=True)
class Asked:
    """What a worker needs for asking a model."""

    model: str
    user_id: int
    wants: list[str]
    question: str
    answer: str


class AfterwordQuerySet(models.QuerySet["Afterword"]):
    def pending(self) -> Self:
        return self.filter(state=Afterword.State.PENDING)

    def abandoned(self) -> Self:
        """Pending ones that no living worker holds."""
        return self.pending().filter(
            models.Q(worker=None, queued_at__lt=Now() - FORGOTTEN_AFTER)
            | models.Q(models.Q(worker__isnull=False), ~models.Q(holder_lives(Afterword._meta.db_table)))
        )


class Afterword(models.Model):
    """What is asked of a model after an answer is there, at the class `batch`. It runs in a worker and is worth no
    waiting: a new question makes it void, and so does a model that answers with rubbish."""

    class State(models.TextChoices):
        PENDING = "pending"
        DONE = "done"
        VOID = "void"

    class Part(models.TextChoices):
        TITLE = "titles"
        TAGS = "tags"
        FOLLOW_UPS = "follow_ups"

    generation = models.OneToOneField(Generation, on_delete=models.CASCADE, primary_key=True, related_name="afterword")
    wants = ArrayField(models.CharField(max_length=10, choices=Part))
    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    #: The number of the worker that holds it.
    worker = models.PositiveIntegerField(null=True)
    #: Questions to go on with.
    follow_ups = ArrayField(models.CharField(max_length=200), default=list)
    model = models.CharField(max_length=200, blank=True)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cost = models.DecimalField(max_digits=14, decimal_places=8, null=True)
    queued_at = models.DateTimeField(db_default=Now())

    objects = AfterwordQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["queued_at"], name="afterword_pending", condition=models.Q(state="pending")),
        ]

    def __str__(self) -> str:
        return f"{self.state} after {self.generation_id}"

    @property
    def is_pending(self) -> bool:
        return self.state == self.State.PENDING

    @classmethod
    def begin(cls, generation: Generation) -> None:
        """Ask for what is wanted after an answer. Call inside the transaction that ends it."""
        wants = _wants(generation)
        if not wants:
            return
        # An answer that failed and went on may come here twice.
        afterword, _ = cls.objects.update_or_create(
            generation=generation, defaults={"wants": wants, "state": cls.State.PENDING, "worker": None}
        )
        afterword.enqueue()

    def enqueue(self) -> None:
        """Ask for a worker. The job only wakes one up; what is to be done stands in this row."""
        from aiia_platform.afterwords.jobs import write_afterword

        pk = str(self.generation_id)
        with suppress(AlreadyEnqueued), transaction.atomic():
            write_afterword.configure(queueing_lock=f"afterword {pk}").defer(generation_id=pk)

    @classmethod
    def enqueue_abandoned(cls) -> None:
        """Queue again what a dead worker left behind."""
        for afterword in cls.objects.abandoned().order_by("queued_at")[:AT_ONCE]:
            afterword.enqueue()

    @classmethod
    def give_way(cls, chat: "Chat") -> None:
        """Void what is being made for a chat, because it goes on or goes away. Call inside a transaction."""
        pending = cls.objects.pending().filter(generation__message__chat=chat)
        ids = list(pending.values_list("pk", flat=True))
        if not ids:
            return
        cls.objects.pending().filter(pk__in=ids).update(state=cls.State.VOID)
        with connection.cursor() as cursor:
            for pk in ids:
                cursor.execute("SELECT pg_notify(%s, %s)", [STOP_CHANNEL, str(pk)])

    # The worker's verbs

    @classmethod
    @transaction.atomic
    def take(cls, pk: uuid.UUID, worker: int) -> Asked | None:
        """Take it for a worker, or return None when there is nothing to do (any more)."""
        rows = cls.objects.select_for_update(of=("self",)).select_related("generation__message__parent")
        row = rows.filter(pk=pk).pending().first()
        if row is None or (row.worker is not None and not cls.objects.abandoned().filter(pk=pk).exists()):
            return None
        generation = row.generation
        message = generation.message
        if message.deleted_at or message.parent is None:
            row._settle(cls.State.VOID)
            return None
        row.worker, row.model = worker, current("afterword_model") or generation.model
        row.save(update_fields=["worker", "model"])
        return Asked(row.model, generation.user_id, row.wants, message.parent.text, message.text)

    @classmethod
    def release(cls, pk: uuid.UUID) -> None:
        """Leave it to any other worker, because this one shuts down."""
        cls.objects.pending().filter(pk=pk).update(worker=None)

    @classmethod
    @transaction.atomic
    def settle(cls, pk: uuid.UUID, words: Words | None, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Keep what the model said; None when it said nothing. Changes nothing that is no longer pending."""
        rows = cls.objects.select_for_update(of=("self",)).select_related("generation__message")
        row = rows.filter(pk=pk).pending().first()
        if row is None:
            return
        row.prompt_tokens, row.completion_tokens = prompt_tokens, completion_tokens
        row.cost = cost(row.model, prompt_tokens, completion_tokens)
        row.follow_ups = words.follow_ups if words else []
        row._settle(cls.State.DONE if words else cls.State.VOID)
        if words:
            _name(row.generation.message.chat_id, words)

    def _settle(self, state: "Afterword.State") -> None:
        self.state, self.worker = state, None
        self.save()


def _wants(generation: Generation) -> list[str]:
    """The parts that the installation, the user and the chat leave to a model after this answer."""
    from aiia_platform.chats.models import Chat, Message

    message = Message.objects.only("position", "is_beside", "deleted_at", "text").get(pk=generation.message_id)
    if message.deleted_at or not message.text.strip():
        return []
    chat = Chat.objects.select_related("user__settings").filter(pk=generation.message.chat_id, deleted_at=None).first()
    if chat is None or chat.is_busy:
        return []
    choices = chat.user.choices
    if chat.is_temporary and not choices.wants_afterword("temporary"):
        return []
    may = {part for part in Afterword.Part if current(part) and choices.wants_afterword(part)}
    is_new = message.position <= TRIED_UNTIL and not chat.is_titled
    wants = [Afterword.Part.TITLE] if is_new else []
    wants += [Afterword.Part.TAGS] if not chat.tags and (is_new or message.position == 1) else []
    # Of several answers beside each other none is the newest.
    wants += [Afterword.Part.FOLLOW_UPS] if not message.is_beside else []
    return [str(part) for part in wants if part in may]


def _name(chat_id: uuid.UUID, words: Words) -> None:
    """Give a chat its title and tags, unless a person did meanwhile."""
    from aiia_platform.chats.models import Chat

    chat = Chat.objects.select_for_update().get(pk=chat_id)
    before = chat.title, chat.tags
    if words.title and not chat.is_titled:
        chat.title, chat.is_titled = words.title, True
    if words.tags and not chat.tags:
        chat.tags = words.tags
    if (chat.title, chat.tags) != before:
        chat.version += 1
        chat.save(update_fields=["title", "is_titled", "tags", "version"])
