"""`/api/settings/`: the settings of the installation, for administrators."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers  # type: ignore[import-untyped]
from rest_framework.exceptions import ValidationError  # type: ignore[import-untyped]
from rest_framework.response import Response  # type: ignore[import-untyped]
from rest_framework.views import APIView  # type: ignore[import-untyped]

from aiia_platform.accounts.models import User
from aiia_platform.api import Administrators
from aiia_platform.options.models import StoredOption, all_settings
from aiia_platform.options.registry import OPTIONS, Value


class Origin(serializers.Serializer):  # type: ignore[misc]  # the framework has no types
    """A value that an option has, and where it comes from."""

    origin = serializers.ChoiceField(["default", "page", "environment"])
    value = serializers.JSONField()


class SettingShown(serializers.Serializer):  # type: ignore[misc]
    """An option. The last of `origins` is in effect; of secrets only whether they are set is told."""

    name = serializers.CharField()
    title = serializers.CharField()
    variable = serializers.CharField()
    value = serializers.JSONField()
    origin = serializers.ChoiceField(["default", "page", "environment"])
    origins = Origin(many=True)


class SettingsShown(serializers.Serializer):  # type: ignore[misc]
    settings = SettingShown(many=True)


class Settings(APIView):  # type: ignore[misc]
    """`GET` all with their origins; `PATCH` some by name, null goes back to the default."""

    permission_classes = [Administrators]

    @extend_schema(tags=["administration"], summary="Settings of the installation", responses=SettingsShown)
    def get(self, request: Any) -> Response:
        return Response(_shown())

    @extend_schema(
        tags=["administration"],
        summary="Change settings",
        description="By name; null goes back to the default. What the environment decides is refused.",
        request={"application/json": {"type": "object", "additionalProperties": {}}},
        responses=SettingsShown,
        examples=[OpenApiExample("Close registration", {"signup": "closed"}, request_only=True)],
    )
    def patch(self, request: Any) -> Response:
        if not isinstance(request.data, dict):
            raise ValidationError({"": "Send an object of settings by name."})
        changes: dict[str, Value | None] = {}
        mistakes: dict[str, str] = {}
        for name, value in request.data.items():
            try:
                changes[name] = _parsed(name, value)
            except ValueError as error:
                mistakes[name] = str(error)
        if mistakes:
            raise ValidationError(mistakes)
        StoredOption.change(changes, request.user if isinstance(request.user, User) else None)
        return Response(_shown())


def _parsed(name: str, value: Any) -> Value | None:
    option = OPTIONS.get(name)
    if option is None:
        raise ValueError("There is no such setting.")
    if option.from_environment() is not None:
        raise ValueError(f"{option.variable} in the environment decides.")
    if value is None:
        return None
    if not isinstance(value, str | int) or "\0" in str(value):
        raise ValueError("Give a text, a number, true or false.")
    return option.parse(str(value))


def _shown() -> dict[str, Any]:
    def value(option: Any, given: Value) -> Value:
        return bool(given) if option.is_secret else given

    return {
        "settings": [
            {
                "name": setting.option.name,
                "title": setting.option.title,
                "variable": setting.option.variable,
                "value": value(setting.option, setting.value),
                "origin": setting.origin,
                "origins": [{"origin": o, "value": value(setting.option, v)} for o, v in setting.origins],
            }
            for setting in all_settings()
        ]
    }
