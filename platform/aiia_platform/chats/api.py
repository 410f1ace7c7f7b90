"""`/api/chats/`, `/api/search/` and `/api/llm/`: chats and their messages for programs.

A send is idempotent: the ids of chats and messages may be the caller's, or come from an `Idempotency-Key`.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ValidationError as Invalid
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import generics, serializers  # type: ignore[import-untyped]
from rest_framework.exceptions import PermissionDenied, ValidationError  # type: ignore[import-untyped]
from rest_framework.parsers import MultiPartParser  # type: ignore[import-untyped]
from rest_framework.response import Response  # type: ignore[import-untyped]
from rest_framework.views import APIView  # type: ignore[import-untyped]

from aiia_platform.accounts.models import User
from aiia_platform.api import IF_MATCH
from aiia_platform.chats import search, tree
from aiia_platform.chats.files import MAX_FILE
from aiia_platform.chats.models import (
    MAX_ANSWERS,
    MAX_FILES,
    MAX_MESSAGE_LENGTH,
    Attachment,
    Chat,
    Message,
    Stale,
)
from aiia_platform.gateway import list_models_sync, was_heard
from aiia_platform.generations.models import ChatBusy, Generation
from aiia_platform.problems import Problem

IDEMPOTENCY = OpenApiParameter(
    "Idempotency-Key",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The same request sent again under this key changes nothing and is answered alike",
)


class _Context(serializers.Serializer):  # type: ignore[misc]  # the framework has no types
    """What is sent of a conversation that is longer than the model."""

    strategy = serializers.ChoiceField(["auto", "last", "budget", "summary"], default="auto")
    messages = serializers.IntegerField(min_value=1, max_value=10_000_000, required=False)
    tokens = serializers.IntegerField(min_value=1, max_value=10_000_000, required=False)


class ChatRow(serializers.Serializer):  # type: ignore[misc]
    """A chat. `version` is its `ETag`."""

    id = serializers.UUIDField(required=False)
    title = serializers.CharField(max_length=80, required=False)
    tags = serializers.ListField(child=serializers.CharField(max_length=40), max_length=20, required=False)
    system_prompt = serializers.CharField(max_length=MAX_MESSAGE_LENGTH, allow_blank=True, required=False)
    params = serializers.DictField(required=False, help_text="temperature, top_p, top_k, max_tokens, stop, seed")
    context = _Context(required=False)
    is_pinned = serializers.BooleanField(required=False)
    is_archived = serializers.BooleanField(required=False)
    is_temporary = serializers.BooleanField(read_only=True)
    leaf = serializers.UUIDField(read_only=True, allow_null=True)
    version = serializers.IntegerField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)

    def to_representation(self, chat: Chat) -> dict[str, Any]:
        names = ("title", "tags", "system_prompt", "params", "context", "is_pinned", "is_temporary")
        shown = {"id": str(chat.pk)} | {name: getattr(chat, name) for name in names}
        shown |= {"is_archived": chat.archived_at is not None, "leaf": str(chat.leaf) if chat.leaf else None}
        times = {name: getattr(chat, name).isoformat() for name in ("created_at", "updated_at")}
        return shown | {"version": chat.version} | times


class GenerationRow(serializers.Serializer):  # type: ignore[misc]
    """How an answer was made."""

    id = serializers.UUIDField()
    model = serializers.CharField()
    params = serializers.DictField()
    state = serializers.ChoiceField(Generation.State.choices)
    status = serializers.DictField()
    error = serializers.CharField()
    advice = serializers.CharField()
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    cost = serializers.DecimalField(14, 8, allow_null=True)
    duration_s = serializers.FloatField(allow_null=True)


class FileRow(serializers.Serializer):  # type: ignore[misc]
    """A file of a message. `content_type` is what its content is."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    content_type = serializers.CharField()
    size = serializers.IntegerField(help_text="Bytes")


class MessageRow(serializers.Serializer):  # type: ignore[misc]
    """A message. `parent` is the one that it follows; those with the same parent are alternatives."""

    id = serializers.UUIDField()
    parent = serializers.UUIDField(source="parent_id", allow_null=True)
    position = serializers.IntegerField()
    role = serializers.ChoiceField(Message.Role.choices)
    text = serializers.CharField()
    reasoning = serializers.CharField()
    version = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    edited_at = serializers.DateTimeField(allow_null=True)
    deleted_at = serializers.DateTimeField(allow_null=True)
    files = FileRow(source="attachments", many=True)
    generation = serializers.SerializerMethodField()
    follow_ups = serializers.SerializerMethodField()

    @extend_schema(responses=serializers.ListField(child=serializers.CharField()))
    def get_follow_ups(self, message: Message) -> list[str]:
        """Questions to go on with, once a model has made them."""
        return message.afterword.follow_ups if message.afterword else []

    @extend_schema(responses=GenerationRow)
    def get_generation(self, message: Message) -> Any:
        generation = getattr(message, "generation", None)
        return GenerationRow(generation).data if generation else None


class Ask(serializers.Serializer):  # type: ignore[misc]
    """Who answers, and how."""

    model = serializers.CharField(max_length=200)
    beside = serializers.ListField(
        child=serializers.CharField(max_length=200), max_length=MAX_ANSWERS, required=False, default=list
    )
    samples = serializers.IntegerField(min_value=1, max_value=MAX_ANSWERS, default=1)
    params = serializers.DictField(required=False, default=dict)


class Send(Ask):
    """A message, the last one that its sender has seen (`after`), or the one whose other wording it is."""

    id = serializers.UUIDField(required=False)
    text = serializers.CharField(max_length=MAX_MESSAGE_LENGTH, allow_blank=True, default="")
    files = serializers.ListField(
        child=serializers.UUIDField(),
        max_length=MAX_FILES,
        required=False,
        default=list,
        help_text="Ids of files from `/api/files/` that no message has yet",
    )
    after = serializers.UUIDField(required=False, allow_null=True)
    instead_of = serializers.UUIDField(required=False, allow_null=True)


class Generate(Ask):
    """`message` is the question; without it, the last one. `id` is the answer's."""

    id = serializers.UUIDField(required=False)
    message = serializers.UUIDField(required=False, allow_null=True)


class Fork(serializers.Serializer):  # type: ignore[misc]
    message = serializers.UUIDField()


class Edit(serializers.Serializer):  # type: ignore[misc]
    text = serializers.CharField(max_length=MAX_MESSAGE_LENGTH)


class Window(serializers.Serializer):  # type: ignore[misc]
    """A stretch of a branch, the newest last."""

    messages = MessageRow(many=True)
    leaf = serializers.UUIDField(allow_null=True)
    has_older = serializers.BooleanField()
    has_newer = serializers.BooleanField()


def person(request: Any) -> User:
    """Whose chats they are; our own processes have none."""
    if not isinstance(request.user, User):
        raise PermissionDenied("Only people have chats.")
    return request.user


def _chat(request: Any, pk: uuid.UUID) -> Chat:
    return get_object_or_404(Chat.objects.of(person(request)), pk=pk)


def _id(request: Any, given: uuid.UUID | None, what: str) -> uuid.UUID:
    key = request.headers.get("Idempotency-Key", "")
    return given or (uuid.uuid5(uuid.NAMESPACE_URL, f"{request.user.pk} {what} {key}") if key else uuid.uuid4())


def _seen(request: Any) -> int | None:
    """The version that the caller has seen, by `If-Match`."""
    tag = request.headers.get("If-Match", "*").strip().removeprefix("W/").strip('"')
    if tag == "*":
        return None
    return int(tag) if tag.isdecimal() and len(tag) < 10 else -1


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Chat.DoesNotExist as error:
        raise Problem(404, "Not found", "No such chat, message or file.") from error
    except ChatBusy as error:
        raise Problem(
            409, "Conflict", "An answer is being written. Wait for it or cancel it, then try again."
        ) from error
    except Stale as error:
        raise Problem(412, "Precondition failed", "It was changed since you read it. Look at it again.") from error
    except Invalid as error:
        raise ValidationError(error.message_dict if hasattr(error, "error_dict") else error.messages) from error


def _tagged(chat: Chat, status: int = 200) -> Response:
    return Response(ChatRow(chat).data, status=status, headers={"ETag": chat.etag})


_QUERY = [
    OpenApiParameter("show", enum=["listed", "archived", "all"], description="Which chats; `listed` by default"),
    OpenApiParameter("q", description="What the title holds"),
]


@extend_schema(tags=["chats"])
@extend_schema_view(
    get=extend_schema(summary="One's chats, newest first", parameters=_QUERY),
    post=extend_schema(
        summary="Make a chat",
        parameters=[IDEMPOTENCY],
        responses={201: ChatRow},
        examples=[OpenApiExample("With a system prompt", {"title": "Rome", "system_prompt": "Be brief"})],
    ),
)
class Chats(generics.ListCreateAPIView):  # type: ignore[misc]
    """`GET` a page of chats, `POST` a new one."""

    serializer_class = ChatRow
    queryset = Chat.objects.none()

    def get_queryset(self) -> Any:
        user = person(self.request)
        mine, title = Chat.objects.of(user), self.request.query_params.get("q", "").replace("\0", "")
        match self.request.query_params.get("show"):
            case "archived":
                mine = mine.filter(archived_at__isnull=False)
            case "all":
                pass
            case _:
                mine = Chat.objects.listed(user)
        return mine.filter(title__icontains=title) if title else mine

    def create(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        form = ChatRow(data=request.data)
        form.is_valid(raise_exception=True)
        fields = dict(form.validated_data)
        pk = _id(request, fields.pop("id", None), "chat")
        with _refusals():
            return _tagged(Chat.open(person(request), pk, fields), 201)


@extend_schema(tags=["chats"])
class ChatDetail(APIView):  # type: ignore[misc]
    """One chat, with the newest messages of its chosen branch."""

    @extend_schema(summary="A chat", responses=ChatRow)
    def get(self, request: Any, chat_id: uuid.UUID) -> Response:
        chat = _chat(request, chat_id)
        shown = ChatRow(chat).data | {
            "totals": chat.totals(),
            "messages": MessageRow(chat.window().messages, many=True).data,
        }
        return Response(shown, headers={"ETag": chat.etag})

    @extend_schema(summary="Change a chat", parameters=[IF_MATCH], request=ChatRow(partial=True), responses=ChatRow)
    def patch(self, request: Any, chat_id: uuid.UUID) -> Response:
        chat = _chat(request, chat_id)
        form = ChatRow(data=request.data, partial=True)
        form.is_valid(raise_exception=True)
        fields = {name: value for name, value in form.validated_data.items() if name != "id"}
        with _refusals():
            chat.change(_seen(request), **fields)
        return _tagged(Chat.objects.get(pk=chat.pk))

    @extend_schema(summary="Delete a chat; for a day it can be brought back", responses={204: None})
    def delete(self, request: Any, chat_id: uuid.UUID) -> Response:
        _chat(request, chat_id).trash()
        return Response(status=204)


@extend_schema(tags=["chats"])
class Messages(APIView):  # type: ignore[misc]
    """The messages of a branch, and the way to add one."""

    @extend_schema(
        operation_id="chats_messages_list",
        summary="Messages of a branch",
        parameters=[
            OpenApiParameter("branch", OpenApiTypes.UUID, description="A message that it goes through"),
            OpenApiParameter("upto", OpenApiTypes.INT, description="The last position; older ones on demand"),
            OpenApiParameter("size", OpenApiTypes.INT, description="At most so many, 50 by default, up to 500"),
        ],
        responses=Window,
    )
    def get(self, request: Any, chat_id: uuid.UUID) -> Response:
        chat, given = _chat(request, chat_id), request.query_params
        try:
            through = uuid.UUID(given["branch"]) if given.get("branch") else None
            upto = max(-1, min(tree.END, int(given.get("upto", tree.END))))
            size = max(1, min(500, int(given.get("size", tree.WINDOW))))
        except ValueError as error:
            raise Problem(400, "Bad request", "branch is an id, upto and size are whole numbers.") from error
        with _refusals():
            return Response(Window(chat.window(through, upto=upto, size=size)).data)

    @extend_schema(
        summary="Send a message; its answer is made by a worker",
        parameters=[IDEMPOTENCY],
        request=Send,
        responses={201: MessageRow},
        examples=[
            OpenApiExample("A question", {"model": "qwen3-8b", "text": "Three days in Rome?"}),
            OpenApiExample(
                "With a file",
                {"model": "qwen3-8b", "text": "What is this?", "files": ["2f1e6c1a-5d0b-4c7e-9a53-0d5a7c3b9e11"]},
            ),
        ],
    )
    def post(self, request: Any, chat_id: uuid.UUID) -> Response:
        form = Send(data=request.data)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        with _refusals():
            generation = Chat.send(
                user=person(request),
                chat_id=chat_id,
                message_id=_id(request, given.get("id"), f"message {chat_id}"),
                text=given["text"],
                model=given["model"],
                after=given.get("after"),
                instead_of=given.get("instead_of"),
                beside=given["beside"],
                count=given["samples"],
                params=given["params"],
                attachments=given["files"],
            )
        return Response(MessageRow(generation.message).data, status=201)


@extend_schema(tags=["chats"])
class MessageDetail(APIView):  # type: ignore[misc]
    """One message. The answer that is being written is read here, or followed as events."""

    @extend_schema(summary="A message", responses=MessageRow)
    def get(self, request: Any, chat_id: uuid.UUID, message_id: uuid.UUID) -> Response:
        return self._shown(self._message(request, chat_id, message_id))

    @extend_schema(summary="Change an answer's text", parameters=[IF_MATCH], request=Edit, responses=MessageRow)
    def patch(self, request: Any, chat_id: uuid.UUID, message_id: uuid.UUID) -> Response:
        message = self._message(request, chat_id, message_id)
        form = Edit(data=request.data)
        form.is_valid(raise_exception=True)
        with _refusals():
            message.edit(form.validated_data["text"], self._version(request, message))
        return self._shown(message)

    @extend_schema(summary="Take a message out; what follows stays", parameters=[IF_MATCH], responses={204: None})
    def delete(self, request: Any, chat_id: uuid.UUID, message_id: uuid.UUID) -> Response:
        message = self._message(request, chat_id, message_id)
        with _refusals():
            message.remove(self._version(request, message))
        return Response(status=204)

    def _message(self, request: Any, chat_id: uuid.UUID, message_id: uuid.UUID) -> Message:
        mine = Message.objects.of(person(request)).select_related("generation").with_files()
        return get_object_or_404(mine, chat_id=chat_id, pk=message_id)

    def _version(self, request: Any, message: Message) -> int:
        seen = _seen(request)
        return message.version if seen is None else seen

    def _shown(self, message: Message) -> Response:
        return Response(MessageRow(message).data, headers={"ETag": f'"{message.version}"'})


@extend_schema(tags=["chats"])
class Generating(APIView):  # type: ignore[misc]
    @extend_schema(summary="Another answer", parameters=[IDEMPOTENCY], request=Generate, responses={201: MessageRow})
    def post(self, request: Any, chat_id: uuid.UUID) -> Response:
        """Another answer to a question of the chat, beside those that it has."""
        chat = _chat(request, chat_id)
        form = Generate(data=request.data)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        question = given.get("message")
        if question is None:
            last = tree.branch(chat.end).filter(role="user").last()
            if last is None:
                raise Problem(409, "Conflict", "The chat has no question yet.")
            question = last.pk
        with _refusals():
            generation = chat.regenerate(
                question,
                answer_id=_id(request, given.get("id"), f"answer {chat_id}"),
                model=given["model"],
                beside=given["beside"],
                count=given["samples"],
                params=given["params"],
            )
        return Response(MessageRow(generation.message).data, status=201)


@extend_schema(tags=["chats"])
class Cancelling(APIView):  # type: ignore[misc]
    @extend_schema(summary="Stop what is being written", request=None, responses={204: None})
    def post(self, request: Any, chat_id: uuid.UUID) -> Response:
        """Stop all that is being written in the chat; what is there stays."""
        _chat(request, chat_id).stop()
        return Response(status=204)


@extend_schema(tags=["chats"])
class Forking(APIView):  # type: ignore[misc]
    @extend_schema(
        summary="A new chat from a message", parameters=[IDEMPOTENCY], request=Fork, responses={201: ChatRow}
    )
    def post(self, request: Any, chat_id: uuid.UUID) -> Response:
        """A new chat that begins with this one up to a message."""
        chat = _chat(request, chat_id)
        form = Fork(data=request.data)
        form.is_valid(raise_exception=True)
        with _refusals():
            return _tagged(chat.fork(form.validated_data["message"], _id(request, None, f"fork {chat_id}")), 201)


@extend_schema(tags=["chats"])
class Duplicating(APIView):  # type: ignore[misc]
    @extend_schema(summary="A copy of a chat", parameters=[IDEMPOTENCY], request=None, responses={201: ChatRow})
    def post(self, request: Any, chat_id: uuid.UUID) -> Response:
        """A copy with every branch."""
        with _refusals():
            return _tagged(_chat(request, chat_id).duplicate(_id(request, None, f"duplicate {chat_id}")), 201)


class Upload(serializers.Serializer):  # type: ignore[misc]
    """A file to be sent with a message."""

    file = serializers.FileField(allow_empty_file=True)

    def validate_file(self, file: Any) -> Any:
        # Before it is read.
        if file.size > MAX_FILE:
            raise ValidationError(f"A file holds {MAX_FILE // 1024 // 1024} MB at most.")
        return file


@extend_schema(tags=["chats"])
class Files(APIView):  # type: ignore[misc]
    parser_classes = [MultiPartParser]

    @extend_schema(
        summary="Keep a file for a message",
        parameters=[IDEMPOTENCY],
        request={"multipart/form-data": Upload},
        responses={201: FileRow},
    )
    def post(self, request: Any) -> Response:
        """PNG, JPEG, WebP and GIF pictures and text, up to 10 MB. What no message takes within a day is forgotten."""
        form = Upload(data=request.data)
        form.is_valid(raise_exception=True)
        file, user = form.validated_data["file"], person(request)
        try:
            kept = Attachment.store(user, file.name, file.read(), _id(request, None, "file"))
        except Invalid as error:
            raise ValidationError({"file": error.messages}) from error
        return Response(FileRow(kept).data, status=201)


@extend_schema(tags=["chats"])
class FileContent(APIView):  # type: ignore[misc]
    @extend_schema(summary="What is in a file", responses={(200, "application/octet-stream"): OpenApiTypes.BINARY})
    def get(self, request: Any, file_id: uuid.UUID) -> HttpResponse:
        """The bytes, with the type that they are."""
        return get_object_or_404(Attachment, pk=file_id, user=person(request)).response()


class HitRow(serializers.Serializer):  # type: ignore[misc]
    """A message that holds the words."""

    message_id = serializers.UUIDField()
    chat_id = serializers.UUIDField()
    title = serializers.CharField()
    role = serializers.CharField()
    created_at = serializers.DateTimeField()
    snippet = serializers.SerializerMethodField()

    def get_snippet(self, hit: search.Hit) -> str:
        return "".join(text for text, _ in hit.snippet)


class SearchQuery(serializers.Serializer):  # type: ignore[misc]
    q = serializers.CharField(max_length=1000)
    since = serializers.DateField(required=False)
    until = serializers.DateField(required=False)
    model = serializers.CharField(max_length=200, required=False, default="")


@extend_schema(tags=["chats"])
class Search(APIView):  # type: ignore[misc]
    @extend_schema(summary="Search what was said", parameters=[SearchQuery], responses=HitRow(many=True))
    def get(self, request: Any) -> Response:
        """The newest messages with these words, the last one as a beginning."""
        form = SearchQuery(data=request.query_params)
        form.is_valid(raise_exception=True)
        given = dict(form.validated_data)
        return Response(HitRow(search.find(person(request), given.pop("q"), **given), many=True).data)


class LlmModel(serializers.Serializer):  # type: ignore[misc]
    """A chat model. `state` is `ready`, `starting`, `cold`, …; `reason` says why it failed."""

    id = serializers.CharField()
    title = serializers.CharField()
    state = serializers.CharField()
    reason = serializers.CharField()
    progress = serializers.FloatField(allow_null=True)
    eta_s = serializers.FloatField(allow_null=True)
    max_model_len = serializers.IntegerField(allow_null=True)


class LlmStatus(serializers.Serializer):  # type: ignore[misc]
    """`available`: whether a model could answer now."""

    available = serializers.BooleanField()
    gateway_heard = serializers.BooleanField()
    ready = serializers.ListField(child=serializers.CharField())


def _chat_models() -> list[Any]:
    return [model for model in list_models_sync() if model.task == "chat"]


@extend_schema(tags=["llm"])
class Status(APIView):  # type: ignore[misc]
    @extend_schema(summary="Whether a model can answer", responses=LlmStatus)
    def get(self, request: Any) -> Response:
        """From what is known, at most a second old; a gateway that is away holds up nobody for long."""
        ready = [model.id for model in _chat_models() if model.is_ready]
        return Response({"available": bool(ready), "gateway_heard": was_heard(), "ready": ready})


@extend_schema(tags=["llm"])
class LlmModels(APIView):  # type: ignore[misc]
    @extend_schema(summary="The chat models and their states", responses=LlmModel(many=True))
    def get(self, request: Any) -> Response:
        """The chat models and their states."""
        return Response(LlmModel(_chat_models(), many=True).data)
