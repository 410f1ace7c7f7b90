"""Chats and their messages."""

import uuid
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, transaction

from aiia_platform.generations.models import ChatBusy, Generation

if TYPE_CHECKING:
    from aiia_platform.accounts.models import User

#: Characters of one message; a book chapter fits, a pasted disk image does not.
MAX_MESSAGE_LENGTH = 200_000
TITLE_LENGTH = 80
MAX_MODEL_LENGTH = 200


class ChatQuerySet(models.QuerySet["Chat"]):
    def of(self, user: "User") -> Self:
        """The chats this user may see, newest first."""
        return self.filter(user=user)

    def with_activity(self) -> Self:
        """Annotate `is_answering`: whether an answer is being written."""
        active = Generation.objects.active().filter(message__chat=models.OuterRef("pk"))
        return self.annotate(is_answering=models.Exists(active))


class Chat(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="chats")
    title = models.CharField(max_length=TITLE_LENGTH)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ChatQuerySet.as_manager()

    class Meta:
        ordering = ["-updated_at"]
        indexes = [models.Index(fields=["user", "-updated_at"])]

    def __str__(self) -> str:
        return self.title

    @classmethod
    def send(cls, *, user: "User", chat_id: uuid.UUID, message_id: uuid.UUID, text: str, model: str) -> Generation:
        """Accept a user's message: store it, its empty answer, the generation and its job in one transaction.

        The ids are the sender's. A chat id that is new makes the chat; a message id that was accepted before changes
        nothing and returns the same generation.

        Raises `ValidationError` for a text or model that cannot be sent, `Chat.DoesNotExist` when the chat or message
        is not this user's, `ChatBusy` while an answer is being written.
        """
        text = text.strip().replace("\x00", "")
        if not text:
            raise ValidationError("Write something first.", code="empty")
        if len(text) > MAX_MESSAGE_LENGTH:
            raise ValidationError(f"A message holds {MAX_MESSAGE_LENGTH:,} characters at most.", code="too_long")
        if not 0 < len(model) <= MAX_MODEL_LENGTH:
            raise ValidationError("Choose a model first.", code="no_model")
        with transaction.atomic():
            cls.objects.get_or_create(id=chat_id, defaults={"user": user, "title": _title(text)})
            chat = cls.objects.of(user).select_for_update().get(id=chat_id)
            known = Message.objects.select_related("chat").filter(id=message_id).first()
            if known:
                if known.chat_id != chat.id or known.role != Message.Role.USER:
                    raise cls.DoesNotExist
                return Generation.objects.get(message__parent=known)
            if Generation.objects.active().filter(message__chat=chat).exists():
                raise ChatBusy
            last = chat.messages.last()
            question = Message.objects.create(
                id=message_id, chat=chat, parent=last, position=last.position + 1 if last else 0, role="user", text=text
            )
            answer = Message.objects.create(
                chat=chat, parent=question, position=question.position + 1, role="assistant"
            )
            chat.save(update_fields=["updated_at"])
            return Generation.start(message=answer, user=user, model=model)


class Message(models.Model):
    """One turn. `parent` is the turn it follows, `position` its depth in the chat."""

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    chat = models.ForeignKey(Chat, on_delete=models.CASCADE, related_name="messages")
    parent = models.ForeignKey("self", on_delete=models.CASCADE, null=True, related_name="children")
    position = models.PositiveIntegerField()
    role = models.CharField(max_length=10, choices=Role)
    text = models.TextField(blank=True)
    #: What a reasoning model thought before it answered.
    reasoning = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    generation: Generation

    class Meta:
        ordering = ["position"]
        indexes = [models.Index(fields=["chat", "position"])]

    def __str__(self) -> str:
        return f"{self.role}: {self.text[:40]}"


def _title(text: str) -> str:
    line = text.split("\n", 1)[0].strip()
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
