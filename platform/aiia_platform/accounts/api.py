"""`/api/account/`, `/api/users/` and `/api/roles/`: oneself, and for administrators everybody."""

from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError as Invalid
from django.db import transaction
from django.db.models import Q
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import generics, serializers  # type: ignore[import-untyped]
from rest_framework.exceptions import PermissionDenied, ValidationError  # type: ignore[import-untyped]
from rest_framework.response import Response  # type: ignore[import-untyped]
from rest_framework.views import APIView  # type: ignore[import-untyped]

from aiia_platform.accounts.models import ApiKey, LastAdministrator, Role, Scope, User, UserProfile, UserSettings
from aiia_platform.api import IF_MATCH, Administrators, Process, Versioned, VersionedDetail
from aiia_platform.problems import Problem
from aiia_platform.usage.quotas import used_today


class Preferences(serializers.Serializer):  # type: ignore[misc]  # the framework has no types
    """How pages look."""

    text_size = serializers.ChoiceField(UserProfile.TextSize.choices, required=False)
    width = serializers.ChoiceField(UserProfile.Width.choices, required=False)


class LlmPreferences(serializers.Serializer):  # type: ignore[misc]
    """What new chats begin with; what is missing is the model's own choice."""

    model = serializers.CharField(max_length=200, required=False)
    system_prompt = serializers.CharField(max_length=20_000, required=False)
    temperature = serializers.FloatField(min_value=0, max_value=2, required=False)
    top_p = serializers.FloatField(min_value=0, max_value=1, required=False)
    max_tokens = serializers.IntegerField(min_value=1, max_value=1_000_000, required=False)


class Afterwords(serializers.Serializer):  # type: ignore[misc]
    """What a model may write after an answer, where the installation lets it; `temporary`: in temporary chats, too."""

    titles = serializers.BooleanField(required=False)
    tags = serializers.BooleanField(required=False)
    follow_ups = serializers.BooleanField(required=False)
    temporary = serializers.BooleanField(required=False)

    def to_representation(self, chosen: dict[str, bool]) -> dict[str, bool]:
        return {**UserSettings.AFTERWORDS, **chosen}


class Shares(serializers.Serializer):  # type: ignore[misc]
    """Amounts per day (UTC). As limits, 0 means as many as one likes."""

    daily_tokens = serializers.IntegerField()
    daily_gpu_seconds = serializers.IntegerField()


class Account(serializers.Serializer):  # type: ignore[misc]
    """Oneself. `llm_preferences`, `preferences` and `afterwords` replace what was there."""

    id = serializers.IntegerField(read_only=True)
    username = serializers.CharField(read_only=True)
    email = serializers.EmailField(read_only=True, allow_null=True)
    is_administrator = serializers.BooleanField(source="is_staff", read_only=True)
    role = serializers.CharField(source="role.name", read_only=True, default=None, allow_null=True)
    theme = serializers.ChoiceField(User.Theme.choices, required=False)
    bio = serializers.CharField(source="about.bio", max_length=1000, allow_blank=True, required=False)
    preferences = Preferences(source="about.preferences", required=False)
    llm_preferences = LlmPreferences(source="choices.llm_preferences", required=False)
    afterwords = Afterwords(source="choices.afterwords", required=False)
    limits = serializers.SerializerMethodField()
    used_today = serializers.SerializerMethodField()

    @extend_schema(responses=Shares)
    def get_limits(self, user: User) -> dict[str, int]:
        return {name: user.limit(name) for name in ("daily_tokens", "daily_gpu_seconds")}

    def get_used_today(self, user: User) -> dict[str, Any]:
        return used_today(user)

    @transaction.atomic
    def update(self, user: User, given: dict[str, Any]) -> User:
        about, choices = given.pop("about", {}), given.pop("choices", {})
        if given:
            for name, value in given.items():
                setattr(user, name, value)
            user.save(update_fields=list(given))
        for part, changes in ((user.about, about), (user.choices, choices)):
            for name, value in changes.items():
                setattr(part, name, dict(value) if isinstance(value, dict) else value)
            if changes:
                part.save()
        return User.objects.get(pk=user.pk)


@extend_schema(tags=["account"])
@extend_schema_view(
    get=extend_schema(summary="Oneself", responses=Account),
    patch=extend_schema(
        summary="Change oneself",
        parameters=[IF_MATCH],
        request=Account(partial=True),
        responses=Account,
        examples=[OpenApiExample("Brief answers", {"llm_preferences": {"system_prompt": "Be brief"}})],
    ),
)
class Me(Versioned, APIView):  # type: ignore[misc]
    """`GET` and `PATCH` oneself."""

    volatile = frozenset({"used_today", "limits"})

    def get(self, request: Any) -> Response:
        return self._shown(_person(request))

    @transaction.atomic
    def patch(self, request: Any) -> Response:
        person = User.objects.select_for_update().get(pk=_person(request).pk)
        self.refuse_stale(request, Account(person).data)
        form = Account(person, data=request.data, partial=True)
        form.is_valid(raise_exception=True)
        return self._shown(form.save())

    def _shown(self, person: User) -> Response:
        data = Account(person).data
        return Response(data, headers={"ETag": self.etag(data)})


class Token(serializers.ModelSerializer):  # type: ignore[misc]
    """An API key. `secret` is there in the answer to its making alone."""

    scopes = serializers.MultipleChoiceField(choices=Scope.choices, allow_empty=False)
    secret = serializers.CharField(read_only=True, required=False)

    class Meta:
        model = ApiKey
        fields = ("id", "name", "prefix", "scopes", "created_at", "last_used_at", "expires_at", "secret")
        read_only_fields = ("id", "prefix", "created_at", "last_used_at")
        extra_kwargs = {"expires_at": {"required": False}}

    def to_representation(self, key: ApiKey) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(key)
        return {**shown, "scopes": sorted(shown["scopes"])}


@extend_schema(tags=["account"])
@extend_schema_view(
    get=extend_schema(summary="One's API keys"),
    post=extend_schema(
        summary="Make an API key",
        description="A key makes keys that may no more than it does, and that last no longer.",
        examples=[OpenApiExample("For a notebook", {"name": "notebook", "scopes": ["models"]}, request_only=True)],
    ),
)
class Tokens(generics.ListCreateAPIView):  # type: ignore[misc]
    """`GET` and `POST` one's API keys."""

    serializer_class = Token

    def get_queryset(self) -> Any:
        return ApiKey.objects.active().filter(user=self.request.user.pk).order_by("-created_at", "pk")

    def perform_create(self, serializer: Any) -> None:
        user, key, given = _person(self.request), self.request.auth, serializer.validated_data
        if not user.may_use_api:
            raise PermissionDenied("Your role has no API access.")
        ends_at = given.get("expires_at")
        if key is not None:
            if beyond := sorted(set(given["scopes"]) - set(key.scopes)):
                raise PermissionDenied(f"This API key can't give what it lacks: {', '.join(beyond)}.")
            if key.expires_at and (ends_at is None or ends_at > key.expires_at):
                raise PermissionDenied("This API key can't make one that lasts longer.")
        serializer.instance, secret = ApiKey.create(user, given["name"], given["scopes"], ends_at)
        serializer.instance.secret = secret


@extend_schema(tags=["account"], summary="Revoke an API key")
class TokenDetail(generics.DestroyAPIView):  # type: ignore[misc]
    """`DELETE` one of one's API keys."""

    serializer_class = Token
    lookup_url_kwarg = "token_id"

    def get_queryset(self) -> Any:
        return ApiKey.objects.active().filter(user=self.request.user.pk)

    def perform_destroy(self, key: ApiKey) -> None:
        key.revoke()


class Person(serializers.ModelSerializer):  # type: ignore[misc]
    """A user, for administrators. Shares: null as the role says, 0 as many as they like."""

    is_administrator = serializers.BooleanField(source="is_staff", required=False)
    role = serializers.SlugRelatedField("name", queryset=Role.objects.all(), allow_null=True, required=False)
    password = serializers.CharField(write_only=True, max_length=200, required=False)

    class Meta:
        model = User
        fields = (
            "id",
            "username",
            "email",
            "password",
            "is_administrator",
            "is_active",
            "is_waiting",
            "role",
            "daily_tokens",
            "daily_gpu_seconds",
            "date_joined",
            "last_login",
        )
        read_only_fields = ("id", "is_waiting", "date_joined", "last_login")
        extra_kwargs = {
            name: {"max_value": 10**15, "min_value": 0, "required": False, "allow_null": True}
            for name in ("daily_tokens", "daily_gpu_seconds")
        }

    def validate_password(self, password: str) -> str:
        try:
            validate_password(password)
        except Invalid as error:
            raise ValidationError(error.messages) from error
        return password

    def create(self, given: dict[str, Any]) -> User:
        password = given.pop("password", None)
        person = User(**given, is_superuser=given.get("is_staff", False))
        person.set_password(password)
        person.register()
        person.vouch()
        return person

    @transaction.atomic
    def update(self, person: User, given: dict[str, Any]) -> User:
        password, is_active = given.pop("password", None), given.pop("is_active", person.is_active)
        try:
            person.change(is_staff=given.pop("is_staff", person.is_staff), **given)
            if is_active != person.is_active:
                person.approve() if is_active else person.close()
        except LastAdministrator:
            raise Problem(409, "Conflict", "There has to be an administrator.") from None
        if password:
            person.set_password(password)
            person.save(update_fields=["password"])
        return person


@extend_schema(tags=["administration"])
@extend_schema_view(
    get=extend_schema(
        summary="Users",
        parameters=[
            OpenApiParameter("q", OpenApiTypes.STR, description="Part of a name or address"),
            OpenApiParameter("state", OpenApiTypes.STR, enum=["active", "waiting", "closed"]),
        ],
    ),
    post=extend_schema(summary="Make a user"),
)
class People(generics.ListCreateAPIView):  # type: ignore[misc]
    """`GET` and `POST` users."""

    serializer_class = Person
    permission_classes = [Administrators]

    def get_queryset(self) -> Any:
        found = User.objects.select_related("role").order_by("pk")
        if query := self.request.query_params.get("q", "").replace("\0", ""):
            found = found.filter(Q(username__icontains=query) | Q(email__icontains=query))
        match self.request.query_params.get("state"):
            case "active":
                return found.filter(is_active=True)
            case "waiting":
                return found.filter(is_waiting=True)
            case "closed":
                return found.filter(is_active=False, is_waiting=False)
        return found


@extend_schema(tags=["administration"])
@extend_schema_view(
    get=extend_schema(summary="A user"),
    patch=extend_schema(
        summary="Change a user, let them in, or close their account (`is_active`)", parameters=[IF_MATCH]
    ),
)
class PersonDetail(VersionedDetail, generics.RetrieveUpdateAPIView):  # type: ignore[misc]
    """`GET` and `PATCH` a user."""

    volatile = frozenset({"last_login"})
    serializer_class = Person
    permission_classes = [Administrators]
    lookup_url_kwarg = "user_id"
    http_method_names = ["get", "patch", "head", "options"]
    queryset = User.objects.select_related("role")


class RoleForm(serializers.ModelSerializer):  # type: ignore[misc]
    """What a group of people may do. Shares: null as the installation says, 0 as many as they like."""

    class Meta:
        model = Role
        fields = ("id", "name", "may_use_api", "daily_tokens", "daily_gpu_seconds")
        extra_kwargs = Person.Meta.extra_kwargs


@extend_schema(tags=["administration"])
@extend_schema_view(get=extend_schema(summary="Roles"), post=extend_schema(summary="Make a role"))
class Roles(generics.ListCreateAPIView):  # type: ignore[misc]
    """`GET` and `POST` roles."""

    serializer_class = RoleForm
    permission_classes = [Administrators]
    queryset = Role.objects.order_by("name")


@extend_schema(tags=["administration"])
@extend_schema_view(
    get=extend_schema(summary="A role"),
    patch=extend_schema(summary="Change a role", parameters=[IF_MATCH]),
    delete=extend_schema(summary="Remove a role; who has it stands without one"),
)
class RoleDetail(VersionedDetail, generics.RetrieveUpdateDestroyAPIView):  # type: ignore[misc]
    """`GET`, `PATCH` and `DELETE` a role."""

    serializer_class = RoleForm
    permission_classes = [Administrators]
    lookup_url_kwarg = "role_id"
    http_method_names = ["get", "patch", "delete", "head", "options"]
    queryset = Role.objects.all()


def _person(request: Any) -> User:
    """Who calls, when it is a person."""
    if isinstance(request.user, Process):
        raise PermissionDenied("aiia's own processes have no account.")
    user: User = request.user
    return user
