"""`/api/usage/`: what was used, per day and model."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers  # type: ignore[import-untyped]
from rest_framework.exceptions import PermissionDenied, ValidationError  # type: ignore[import-untyped]
from rest_framework.fields import DateField  # type: ignore[import-untyped]
from rest_framework.generics import GenericAPIView  # type: ignore[import-untyped]
from rest_framework.response import Response  # type: ignore[import-untyped]

from aiia_platform.api import administers
from aiia_platform.usage.models import UsageRecord, UsageRecordQuerySet


class DayTotal(serializers.Serializer):  # type: ignore[misc]  # the framework has no types
    """What was used of a model in a day."""

    day = DateField()
    model = serializers.CharField()
    requests = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    gpu_ms = serializers.IntegerField()
    steps = serializers.IntegerField()
    cost = serializers.DecimalField(20, 8, allow_null=True, help_text="In `AIIA_CURRENCY`; null without a price")


@extend_schema(
    summary="What was used, per day and model",
    parameters=[
        OpenApiParameter("from", OpenApiTypes.DATE, description="First day (UTC)"),
        OpenApiParameter("to", OpenApiTypes.DATE, description="Last day (UTC)"),
        OpenApiParameter("user", OpenApiTypes.STR, description="For administrators: a user's number, or all"),
    ],
    responses=DayTotal(many=True),
)
class Usage(GenericAPIView):  # type: ignore[misc]  # the framework has no types
    """`GET`: the caller's totals per day and model, the newest day first, in pages.

    `?from=` and `?to=` are days (UTC), both included. Administrators may ask for another's with `?user=ID`, and for
    those of all together with `?user=all`.
    """

    serializer_class = DayTotal
    queryset = UsageRecord.objects.none()

    def get(self, request: Any) -> Response:
        query = request.query_params
        records = self._records(request, query.get("user", ""))
        totals = records.between(_day(query, "from"), _day(query, "to")).by_day()
        page = DayTotal(self.paginate_queryset(totals), many=True)
        return self.get_paginated_response(page.data)

    def _records(self, request: Any, wanted: str) -> UsageRecordQuerySet:
        everything = UsageRecord.objects.all()
        if wanted in ("", str(request.user.pk)):
            return everything.filter(user=request.user.pk)
        if not administers(request):
            raise PermissionDenied("Only administrators see what others used.")
        if wanted == "all":
            return everything
        if not wanted.isdecimal():
            raise ValidationError({"user": "A user's number, or all."})
        return everything.filter(user=int(wanted))


def _day(query: Any, name: str) -> Any:
    if not (given := query.get(name)):
        return None
    try:
        return DateField().to_internal_value(given)
    except ValidationError as error:
        raise ValidationError({name: error.detail}) from error
