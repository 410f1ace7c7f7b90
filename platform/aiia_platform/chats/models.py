"""Chats and their messages."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector, SearchVectorField
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models.functions import Coalesce, Left
from django.http import HttpResponse
from django.utils import timezone
from django.utils.http import content_disposition_header

from aiia_platform.chats import tree
from aiia_platform.chats.params import clean_context, clean_params, samples
from aiia_platform.generations.models import ChatBusy, Generation

if TYPE_CHECKING:
    from aiia_platform.accounts.models import User
    from aiia_platform.afterwords.models import Afterword

#: Characters of one message; a book chapter fits, a pasted disk image does not.
MAX_MESSAGE_LENGTH = 200_000
TITLE_LENGTH = 80
MAX_MODEL_LENGTH = 200
#: Files in one message.
MAX_FILES = 10
#: Answers that one question asks for at once.
MAX_ANSWERS = 6
#: Characters of a message that are searched. Postgres takes no more than 1 MB of words.
SEARCHED = 100_000
#: How long what was deleted can be brought back, and how long a temporary chat stays after its last message.
KEPT = timedelta(days=1)


class Stale(Exception):
    """What is to be changed is not what its sender has seen; `current` is how it is now."""

    def __init__(self, current: Any) -> None:
        super().__init__("It was changed elsewhere meanwhile.")
        self.current = current


class ChatQuerySet(models.QuerySet["Chat"]):
    def of(self, user: "User") -> Self:
        """The chats this user may see, newest first."""
        return self.filter(user=user, deleted_at=None)

    def listed(self, user: "User") -> Self:
        """Those that stand in lists: neither archived nor temporary."""
        return self.of(user).filter(archived_at=None, is_temporary=False)

    def trashed(self, user: "User") -> Self:
        """Those that the user deleted and may bring back."""
        return self.filter(user=user, deleted_at__gt=timezone.now() - KEPT)

    def with_activity(self) -> Self:
        """Annotate `is_answering`: whether an answer is being written."""
        active = Generation.objects.active().filter(message__chat=models.OuterRef("pk"))
        return self.annotate(is_answering=models.Exists(active))

    def expired(self) -> Self:
        """Those that are to go for good: deleted, or temporary and no longer used."""
        limit = timezone.now() - KEPT
        return self.filter(models.Q(deleted_at__lt=limit) | models.Q(is_temporary=True, updated_at__lt=limit))


class Chat(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="chats")
    title = models.CharField(max_length=TITLE_LENGTH)
    #: Whether the title is more than a question's first line: a person chose it, or a model made it. It then stays.
    is_titled = models.BooleanField(default=False)
    tags = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    is_pinned = models.BooleanField(default=False)
    #: It is in no list and no search, and goes after a day.
    is_temporary = models.BooleanField(default=False)
    archived_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    #: The last message of the branch that was chosen or written last.
    leaf = models.UUIDField(null=True)
    system_prompt = models.TextField(blank=True)
    #: Sampling parameters in OpenAI's names, and what is sent of a long conversation; see `chats.params`.
    params = models.JSONField(default=dict)
    context = models.JSONField(default=dict)
    #: Raised with each change of the fields above, so that nobody overwrites what they have not seen.
    version = models.PositiveIntegerField(default=1)
    #: What an import came from.
    source = models.JSONField(default=dict)

    objects = ChatQuerySet.as_manager()

    class Meta:
        ordering = ["-updated_at"]
        indexes = [
            models.Index(fields=["user", "-updated_at"]),
            GinIndex(fields=["title"], name="chat_title", opclasses=["gin_trgm_ops"]),
        ]

    def __str__(self) -> str:
        return self.title

    # Writing

    @classmethod
    def open(cls, user: "User", pk: uuid.UUID, fields: Mapping[str, Any]) -> "Chat":
        """Make an empty chat with the fields that `change` takes, or find the one that was made under this id.

        Raises `ValidationError` by field, `Chat.DoesNotExist` when the id is somebody else's.
        """
        values = {"title": "New chat", "is_titled": "title" in fields} | _settings(fields)
        chat, _ = cls.objects.get_or_create(id=pk, defaults={"user": user, **values})
        if chat.user_id != user.pk or chat.deleted_at:
            raise cls.DoesNotExist
        return chat

    @classmethod
    def send(
        cls,
        *,
        user: "User",
        chat_id: uuid.UUID,
        message_id: uuid.UUID,
        text: str,
        model: str,
        after: uuid.UUID | None = None,
        instead_of: uuid.UUID | None = None,
        beside: Sequence[str] = (),
        count: int = 1,
        params: Mapping[str, Any] | None = None,
        attachments: Sequence[uuid.UUID] = (),
        temporary: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> Generation:
        """Accept a user's message: store it, its empty answer, the generation and its job in one transaction.

        The ids are the sender's. A chat id that is new makes the chat, with `settings` as in `change`; a message id
        that was accepted before changes nothing and returns the same generation. It follows the message `after`,
        the last one that its sender has seen, or the end of the chat; where something else follows already, it begins
        a branch, and so does one that stands `instead_of` another. Models `beside` the first, or a `count` of samples,
        each write an answer of their own.

        Raises `ValidationError` for a text, model or parameter that cannot be sent, `Chat.DoesNotExist` when the chat
        or a message is not this user's, `ChatBusy` while an answer is being written.
        """
        text = text.strip().replace("\x00", "")
        if not text and not attachments:
            raise ValidationError("Write something first.", code="empty")
        if len(text) > MAX_MESSAGE_LENGTH:
            raise ValidationError(f"A message holds {MAX_MESSAGE_LENGTH:,} characters at most.", code="too_long")
        wanted = _wanted(model, beside, count)
        overrides = clean_params(params or {})
        with transaction.atomic():
            defaults = {"user": user, "title": _title(text or "Files"), "is_temporary": temporary}
            own = user.choices.for_new_chats | dict(settings or {})
            cls.objects.get_or_create(id=chat_id, defaults=defaults | _settings(own))
            chat = cls.objects.of(user).select_for_update().get(id=chat_id)
            chat.user = user
            known = Message.objects.filter(id=message_id).first()
            if known:
                if known.chat_id != chat.id or known.role != Message.Role.USER:
                    raise cls.DoesNotExist
                first = Generation.objects.filter(message__parent=known).order_by("message__created_at").first()
                if first is None:
                    raise cls.DoesNotExist
                return first
            chat._refuse_while_answering()
            parent = chat._message(instead_of).parent if instead_of else chat._tip(after)
            if parent is None and not chat.is_titled and not instead_of:
                chat.title = _title(text or "Files")
            question = Message.objects.create(
                id=message_id,
                chat=chat,
                user=user,
                parent=parent,
                position=parent.position + 1 if parent else 0,
                role="user",
                text=text,
            )
            Message.objects.filter(pk=question.pk).index()
            Attachment.attach(question, attachments)
            Draft.objects.filter(pk=chat_id, user=user).delete()
            return chat._answer(question, wanted, overrides, None)

    def regenerate(
        self,
        question_id: uuid.UUID,
        *,
        answer_id: uuid.UUID,
        model: str,
        beside: Sequence[str] = (),
        count: int = 1,
        params: Mapping[str, Any] | None = None,
    ) -> Generation:
        """Have a question answered once more, beside the answers that it has. Raises like `send`.

        `answer_id` is the sender's; one that was accepted before changes nothing.
        """
        wanted = _wanted(model, beside, count)
        overrides = clean_params(params or {})
        with transaction.atomic():
            chat = self._locked()
            known = Message.objects.filter(pk=answer_id).select_related("generation").first()
            if known:
                if known.chat_id != chat.pk or not hasattr(known, "generation"):
                    raise Chat.DoesNotExist
                return known.generation
            chat._refuse_while_answering()
            question = chat._message(question_id)
            if question.role != Message.Role.USER:
                raise Chat.DoesNotExist
            return chat._answer(question, wanted, overrides, answer_id)

    def choose(self, leaf: uuid.UUID) -> None:
        """Go on from this branch when the chat is opened again, and no longer compare its answers."""
        with transaction.atomic():
            chat = self._locked()
            message = chat._message(leaf)
            Message.objects.filter(chat=chat, parent=message.parent_id, is_beside=True).update(is_beside=False)
            chat.leaf = tree.newest_leaf(message.pk)
            chat.save(update_fields=["leaf"])
        self.leaf = chat.leaf

    def _answer(
        self, question: "Message", wanted: list[str], params: dict[str, Any], first_id: uuid.UUID | None
    ) -> Generation:
        from aiia_platform.afterwords.models import Afterword

        merged = self.params | params
        each = samples(merged, len(wanted)) if len(set(wanted)) == 1 else [merged] * len(wanted)
        started = []
        for number, (model, own) in enumerate(zip(wanted, each, strict=True)):
            answer = Message.objects.create(
                id=first_id if first_id and not number else uuid.uuid4(),
                chat=self,
                user=self.user,
                parent=question,
                position=question.position + 1,
                role="assistant",
                is_beside=len(wanted) > 1,
            )
            started.append(Generation.start(message=answer, user=self.user, model=model, params=own))
        Afterword.give_way(self)
        self.leaf = started[0].message.pk
        self.save(update_fields=["updated_at", "leaf", "title"])
        return started[0]

    def _tip(self, after: uuid.UUID | None) -> "Message | None":
        if after:
            return self._message(after)
        end = self.end
        return Message.objects.get(pk=end) if end else None

    def _message(self, pk: uuid.UUID) -> "Message":
        message = Message.objects.filter(chat=self, pk=pk).first()
        if message is None:
            raise Chat.DoesNotExist
        return message

    def _locked(self) -> "Chat":
        return Chat.objects.select_for_update().get(pk=self.pk, deleted_at=None)

    def _refuse_while_answering(self) -> None:
        if self.is_busy:
            raise ChatBusy

    # Reading

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being written."""
        return Generation.objects.active().filter(message__chat=self).exists()

    @property
    def end(self) -> uuid.UUID | None:
        """The last message of the branch that was chosen last; None in an empty chat."""
        if self.leaf:
            return self.leaf
        # A chat from before there were branches.
        last = self.messages.order_by("position", "created_at").last()
        return last.pk if last else None

    @property
    def etag(self) -> str:
        """What a sender of changes has seen."""
        return f'"{self.version}"'

    def window(self, through: uuid.UUID | None = None, *, upto: int = tree.END, size: int = tree.WINDOW) -> tree.Window:
        """The newest messages up to position `upto` of a branch: the chosen one, or the newest through a message.

        Raises `Chat.DoesNotExist` when that message is not in this chat.
        """
        leaf = tree.newest_leaf(self._message(through).pk) if through else self.end
        return tree.window(self, leaf, upto=upto, size=size)

    def summary(self, leaf: uuid.UUID | None) -> "Summary | None":
        """The newest summary that stands for older messages of a branch; None where all of it is read."""
        if self.context.get("strategy") != "summary":
            return None
        made = Summary.objects.filter(message__chat=self, message__deleted_at=None).select_related("message")
        newest_first = list(made.defer("message__search").order_by("-message__position"))
        if not newest_first:
            return None
        on_branch = tree.branch(leaf).filter(pk__in=[summary.message_id for summary in newest_first])
        ids = set(on_branch.values_list("pk", flat=True))
        return next((summary for summary in newest_first if summary.message_id in ids), None)

    def totals(self) -> dict[str, Any]:
        """What models read and wrote, also after its answers: `prompt_tokens`, `completion_tokens`, `cost` or None."""

        def whole(name: str) -> models.Sum:
            zero = models.Value(Decimal(0) if name == "cost" else 0)
            return models.Sum(Coalesce(name, zero) + Coalesce(f"afterword__{name}", zero), default=zero)

        names = ("prompt_tokens", "completion_tokens", "cost")
        found = Generation.objects.filter(message__chat=self).aggregate(**{name: whole(name) for name in names})
        return found | {"cost": found["cost"] or None}

    # Changing what it is

    def change(self, version: int | None = None, **fields: Any) -> None:
        """Change `title`, `tags`, `is_pinned`, `is_archived`, `system_prompt`, `params` or `context`.

        Raises `Stale` when `version` is given and no longer current, `ValidationError` by field.
        """
        values = _settings(fields)
        with transaction.atomic():
            row = self._locked()
            if version is not None and version != row.version:
                raise Stale(row)
            if values.get("title", row.title) != row.title:
                values["is_titled"] = True
            for name, value in values.items():
                setattr(row, name, value)
            row.version += 1
            row.save(update_fields=[*values, "version"])
        for name in (*values, "version"):
            setattr(self, name, getattr(row, name))

    def trash(self) -> None:
        """Delete it so that it can be brought back for a day. What is being written stops."""
        from aiia_platform.afterwords.models import Afterword

        self.stop()
        with transaction.atomic():
            Afterword.give_way(self)
        Chat.objects.filter(pk=self.pk).update(deleted_at=timezone.now())

    def restore(self) -> None:
        """Bring it back."""
        Chat.objects.filter(pk=self.pk).update(deleted_at=None)

    def stop(self) -> None:
        """Stop all that is being written."""
        for generation in Generation.objects.active().filter(message__chat=self):
            generation.stop()

    # Copies

    def fork(self, message_id: uuid.UUID, new_id: uuid.UUID | None = None) -> "Chat":
        """A new chat that begins with this one up to a message. An id that is there already changes nothing."""
        return self._copy(list(tree.branch(self._message(message_id).pk)), new_id)

    def duplicate(self, new_id: uuid.UUID | None = None) -> "Chat":
        """A new chat with every branch of this one."""
        return self._copy(list(self.messages.all()), new_id)

    @transaction.atomic
    def _copy(self, messages: "list[Message]", new_id: uuid.UUID | None) -> "Chat":
        if new_id and (known := Chat.objects.filter(pk=new_id).first()):
            if known.user_id != self.user_id:
                raise Chat.DoesNotExist
            return known
        copy = Chat.objects.create(
            id=new_id or uuid.uuid4(),
            user=self.user,
            title=_cut(f"{self.title} (copy)") if len(self.title) < TITLE_LENGTH - 7 else self.title,
            is_titled=self.is_titled,
            tags=self.tags,
            system_prompt=self.system_prompt,
            params=self.params,
            context=self.context,
        )
        names = {message.pk: uuid.uuid4() for message in messages}
        end = self.end
        Message.objects.bulk_create(
            [
                Message(
                    id=names[old.pk],
                    chat=copy,
                    user_id=old.user_id,
                    parent_id=names.get(old.parent_id) if old.parent_id else None,
                    position=old.position,
                    role=old.role,
                    text=old.text,
                    reasoning=old.reasoning,
                    created_at=old.created_at,
                    edited_at=old.edited_at,
                    deleted_at=old.deleted_at,
                    search=old.search,
                )
                for old in messages
            ],
            batch_size=1000,
        )
        made = Generation.objects.filter(message__in=names).defer("prompt_ids", "output_ids")
        Generation.objects.bulk_create([g.copied(names[g.message_id]) for g in made], batch_size=1000)
        for old_file in Attachment.objects.filter(message__in=names):
            old_file.pk, old_file.message_id = uuid.uuid4(), names[old_file.message_id]  # type: ignore[index]
            old_file.save(force_insert=True)
        last = messages[-1].pk if messages else None
        copy.leaf = names.get(end if end in names else last) if last else None
        copy.save(update_fields=["leaf"])
        return copy


class MessageQuerySet(models.QuerySet["Message"]):
    def of(self, user: "User") -> Self:
        """The messages in this user's chats."""
        return self.filter(chat__user=user, chat__deleted_at=None)

    def to_read(self) -> Self:
        """With their generations, and without what is long and no reader sees: ids of tokens, and the search index."""
        unread = ("search", "generation__prompt_ids", "generation__output_ids")
        return self.select_related("generation__afterword").defer(*unread)

    def with_files(self) -> Self:
        """With what is known of their files, and without what is in them."""
        return self.prefetch_related(models.Prefetch("attachments", Attachment.objects.defer("content")))

    def index(self) -> int:
        """Make their text searchable. Called in the transaction that completes it."""
        return self.update(search=SearchVector(Left("text", SEARCHED), config="simple"))


class Message(models.Model):
    """One turn. `parent` is the turn it follows, `position` its depth in the chat.

    Turns with the same parent are siblings: another wording of a question, another answer to it. A deleted one stays
    as the place of those below it.
    """

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    chat = models.ForeignKey(Chat, on_delete=models.CASCADE, related_name="messages")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, related_name="+")
    parent = models.ForeignKey("self", on_delete=models.CASCADE, null=True, related_name="children")
    position = models.PositiveIntegerField()
    role = models.CharField(max_length=10, choices=Role)
    text = models.TextField(blank=True)
    #: What a reasoning model thought before it answered.
    reasoning = models.TextField(blank=True)
    #: Whether it is shown beside its siblings until one of them is chosen.
    is_beside = models.BooleanField(default=False)
    #: Raised with each change by a person.
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(default=timezone.now)
    edited_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    search = SearchVectorField(null=True)

    objects = MessageQuerySet.as_manager()

    generation: Generation
    attachments: "models.Manager[Attachment]"
    #: Ids of the alternatives at this place, itself among them; set by `Chat.window`.
    siblings: list[uuid.UUID]

    class Meta:
        ordering = ["position"]
        indexes = [
            models.Index(fields=["chat", "position"]),
            models.Index(fields=["user", "-created_at"], name="message_newest"),
            GinIndex(fields=["search"], name="message_search"),
        ]

    def __str__(self) -> str:
        return f"{self.role}: {self.text[:40]}"

    @property
    def afterword(self) -> "Afterword | None":
        """What is made or was made after it; None where nothing is."""
        return getattr(getattr(self, "generation", None), "afterword", None)

    @property
    def number(self) -> int:
        """Which of its siblings it is, from 1."""
        return self.siblings.index(self.pk) + 1 if self.pk in self.siblings else 1

    @property
    def previous(self) -> uuid.UUID | None:
        """The sibling before it."""
        return self.siblings[self.number - 2] if self.number > 1 else None

    @property
    def next(self) -> uuid.UUID | None:
        """The sibling after it."""
        return self.siblings[self.number] if self.number < len(self.siblings) else None

    def edit(self, text: str, version: int) -> None:
        """Replace the text of an answer. The wording of a question is never replaced; `Chat.send` sets one beside it.

        Raises `Stale` when `version` is no longer current, `ChatBusy` while it is being written, `ValidationError`.
        """
        text = text.strip().replace("\x00", "")
        if not text:
            raise ValidationError("Write something, or delete the answer.", code="empty")
        if len(text) > MAX_MESSAGE_LENGTH:
            raise ValidationError(f"A message holds {MAX_MESSAGE_LENGTH:,} characters at most.", code="too_long")
        if self.role != self.Role.ASSISTANT:
            raise ValidationError("A question is not changed: send another wording of it.", code="question")
        with transaction.atomic():
            row = self._current(version)
            if Generation.objects.active().filter(message=row).exists():
                raise ChatBusy
            row.text, row.version, row.edited_at = text, row.version + 1, timezone.now()
            row.save(update_fields=["text", "version", "edited_at"])
            Message.objects.filter(pk=row.pk).index()
            # They are no longer what the text is made of, so that nothing can go on from them.
            Generation.objects.filter(message=row).update(prompt_ids=[], output_ids=[])
        self.text, self.version, self.edited_at = row.text, row.version, row.edited_at

    def remove(self, version: int) -> None:
        """Take it out of the conversation. What follows it stays; it can be brought back for a day.

        Raises `Stale` when `version` is no longer current.
        """
        with transaction.atomic():
            row = self._current(version)
            row.deleted_at, row.version = timezone.now(), row.version + 1
            row.save(update_fields=["deleted_at", "version"])
        for generation in Generation.objects.active().filter(message=row):
            generation.stop()
        self.deleted_at, self.version = row.deleted_at, row.version

    def restore(self) -> None:
        """Bring it back."""
        with transaction.atomic():
            row = Message.objects.select_for_update().get(pk=self.pk)
            row.deleted_at, row.version = None, row.version + 1
            row.save(update_fields=["deleted_at", "version"])
        self.deleted_at, self.version = row.deleted_at, row.version

    def _current(self, version: int) -> "Message":
        row = Message.objects.select_for_update().get(pk=self.pk)
        if row.version != version:
            raise Stale(row)
        return row


class Attachment(models.Model):
    """A file in a message. Its content is in the database, so that a backup and every pod has it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    #: None until the message that it was chosen for is sent.
    message = models.ForeignKey(Message, on_delete=models.CASCADE, null=True, related_name="attachments")
    name = models.CharField(max_length=200)
    #: What the content is, not what its sender said.
    content_type = models.CharField(max_length=100)
    size = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    content = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_image(self) -> bool:
        return self.content_type.startswith("image/")

    def response(self) -> HttpResponse:
        """Its content: a picture as itself, a text to be saved. Nothing in it runs."""
        found = HttpResponse(bytes(self.content), content_type=self.content_type)
        found["Content-Disposition"] = content_disposition_header(not self.is_image, self.name) or ""
        found["Content-Security-Policy"] = "default-src 'none'; sandbox"
        found["Cache-Control"] = "private, max-age=31536000, immutable"
        return found

    @classmethod
    def store(cls, user: "User", name: str, content: bytes, pk: uuid.UUID | None = None) -> "Attachment":
        """Keep a file, or find the one that was kept under this id.

        Raises `ValidationError` for one that is too large or of a kind that no model reads.
        """
        from aiia_platform.chats.files import kind, safe_name

        fields = {
            "name": safe_name(name),
            "content_type": kind(content),
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "content": content,
        }
        return cls.objects.get_or_create(pk=pk or uuid.uuid4(), user=user, defaults=fields)[0]

    @classmethod
    def store_all(cls, user: "User", files: Sequence[tuple[str, bytes]]) -> list[uuid.UUID]:
        """Keep the files of one message, each a name and its content. Raises `ValidationError` that names the file."""
        if len(files) > MAX_FILES:
            raise ValidationError(f"A message takes {MAX_FILES} files at most.", code="too_many")
        kept = []
        for name, content in files:
            try:
                kept.append(cls.store(user, name, content).pk)
            except ValidationError as error:
                raise ValidationError(f"{name}: {error.messages[0]}", code="file") from error
        return kept

    @classmethod
    def attach(cls, message: Message, ids: Sequence[uuid.UUID]) -> None:
        """Put files that their sender stored into a message. Raises `Chat.DoesNotExist` for one that is not theirs."""
        if not ids:
            return
        if cls.objects.filter(pk__in=ids, user=message.user, message=None).update(message=message) != len(set(ids)):
            raise Chat.DoesNotExist


class Draft(models.Model):
    """What somebody typed and has not sent, by the chat's id; the chat need not be there yet."""

    id = models.UUIDField(primary_key=True, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="drafts")
    text = models.TextField()
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-updated_at"]

    def __str__(self) -> str:
        return self.text[:40]

    @classmethod
    def keep(cls, user: "User", chat_id: uuid.UUID, text: str) -> None:
        """Remember the text; an empty one forgets it. Changes nothing when the id is somebody else's."""
        own = cls.objects.filter(pk=chat_id, user=user)
        text = text.replace("\x00", "")[:MAX_MESSAGE_LENGTH]
        if not text.strip():
            own.delete()
        elif not own.update(text=text, updated_at=timezone.now()):
            Draft.objects.bulk_create([Draft(id=chat_id, user=user, text=text)], ignore_conflicts=True)

    @classmethod
    def unsent(cls, user: "User") -> "Draft | None":
        """The newest one of a chat that is not there yet."""
        return cls.objects.filter(user=user).exclude(pk__in=Chat.objects.values("pk")).first()


class Summary(models.Model):
    """What was said up to a message, in short, for models that cannot read it all."""

    message = models.OneToOneField(Message, on_delete=models.CASCADE, related_name="summary")
    model = models.CharField(max_length=MAX_MODEL_LENGTH)
    text = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.text[:40]


def _wanted(model: str, beside: Sequence[str], count: int) -> list[str]:
    wanted = [model, *(name for name in dict.fromkeys(beside) if name != model)]
    if not all(0 < len(name) <= MAX_MODEL_LENGTH and "\0" not in name for name in wanted):
        raise ValidationError("Choose a model first.", code="no_model")
    wanted = wanted if len(wanted) > 1 else wanted * count
    if not 1 <= len(wanted) <= MAX_ANSWERS:
        raise ValidationError(f"From 1 to {MAX_ANSWERS} answers at once.", code="too_many")
    return wanted


def _settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns for what `Chat.change` takes. Raises `ValidationError` by field."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        match name:
            case "title":
                values[name] = _cut(" ".join(str(value).replace("\0", "").split()))
                if not values[name]:
                    raise ValidationError({name: "Give it a name."})
            case "tags":
                values[name] = _tags(value)
            case "is_pinned":
                values[name] = bool(value)
            case "is_archived":
                values["archived_at"] = timezone.now() if value else None
            case "system_prompt":
                values[name] = str(value).replace("\0", "").strip()
                if len(values[name]) > MAX_MESSAGE_LENGTH:
                    raise ValidationError({name: f"{MAX_MESSAGE_LENGTH:,} characters at most."})
            case "params":
                values[name] = clean_params(value)
            case "context":
                values[name] = clean_context(value)
            case _:
                raise TypeError(f"a chat has no setting {name}")
    return values


def _tags(value: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(t for tag in value if (t := " ".join(tag.replace("\0", "").split())[:40])))[:20]


def _title(text: str) -> str:
    return _cut(text.split("\n", 1)[0].strip())


def _cut(line: str) -> str:
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"


def expire(now: datetime | None = None) -> None:
    """Delete for good what was deleted a day ago, temporary chats that are no longer used, and files never sent."""
    limit = (now or timezone.now()) - KEPT
    Chat.objects.expired().delete()
    # A deleted message keeps its place and loses its words.
    gone = Message.objects.filter(deleted_at__lt=limit).exclude(text="", reasoning="")
    Attachment.objects.filter(message__deleted_at__lt=limit).delete()
    gone.update(text="", reasoning="", search=None)
    Attachment.objects.filter(message=None, created_at__lt=limit).delete()
