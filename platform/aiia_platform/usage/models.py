"""What each request to a model used."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Self

from django.conf import settings
from django.db import models, transaction
from django.db.models import Count, Sum
from django.db.models.functions import TruncDate

from aiia_platform.accounts.models import ApiKey, User
from aiia_platform.generations.prices import cost

if TYPE_CHECKING:
    from aiia_platform.usage.wire import Record


class UsageRecordQuerySet(models.QuerySet["UsageRecord"]):
    def between(self, first: date | None, last: date | None) -> Self:
        """Those that began on these days (UTC), both included; None leaves that end open."""
        found = self
        if first:
            found = found.filter(started_at__date__gte=first)
        if last:
            found = found.filter(started_at__date__lte=last)
        return found

    def by_day(self) -> "models.QuerySet[UsageRecord, Any]":
        """Totals per day and model, the newest day first: `day`, `model`, `requests`, and each sum under its name."""
        names = ("prompt_tokens", "completion_tokens", "cached_tokens", "gpu_ms", "steps", "cost")
        sums = {name: Sum(name) for name in names}
        return (
            self.values("model", day=TruncDate("started_at"))
            .annotate(requests=Count("id"), **sums)
            .order_by("-day", "model")
        )

    @transaction.atomic
    def take(self, records: "Sequence[Record]") -> None:
        """Store what a gateway reports. A record that is there already changes nothing, so it may come any number of
        times and counts once. Users and keys that are gone leave their records behind. A gateway that was only taken
        for dead knows better than who reported its requests as lost.
        """
        lost = UsageRecord.Outcome.LOST
        known = [record.request_id for record in records if record.outcome != lost]
        self.filter(request_id__in=known, outcome=lost).delete()
        users = {record.user_id for record in records if record.user_id.isdecimal()}
        keys = {record.key_id for record in records if record.key_id}
        known_users = {str(pk): pk for pk in User.objects.filter(pk__in=users).values_list("pk", flat=True)}
        known_keys = set(ApiKey.objects.filter(pk__in=keys).values_list("pk", flat=True))
        self.bulk_create(
            [
                UsageRecord(
                    user_id=known_users.get(record.user_id),
                    key_id=record.key_id if record.key_id in known_keys else None,
                    cost=cost(record.model, record.prompt_tokens, record.completion_tokens),
                    **record.model_dump(exclude={"user_id", "key_id"}),
                )
                # In one order everywhere, so that two gateways with the same records do not wait for each other.
                for record in sorted(records, key=lambda record: (record.request_id, record.outcome == lost))
            ],
            ignore_conflicts=True,
        )


class UsageRecord(models.Model):
    """One request, as its gateway counted it. Times are in milliseconds from the request's arrival."""

    class Outcome(models.TextChoices):
        COMPLETE = "complete"
        CANCELLED = "cancelled"
        FAILED = "failed"
        #: Its gateway died; the figures are what the queue knew last.
        LOST = "lost"

    request_id = models.CharField(max_length=100, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="usage")
    key = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="usage")
    model = models.CharField(max_length=200)
    kind = models.CharField(max_length=20)
    work_class = models.CharField(max_length=20)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    gpu_ms = models.PositiveBigIntegerField(default=0)
    steps = models.PositiveIntegerField(default=0)
    #: By the prices that were configured when it was reported; None without a price.
    cost = models.DecimalField(max_digits=14, decimal_places=8, null=True)
    outcome = models.CharField(max_length=10, choices=Outcome)
    started_at = models.DateTimeField()
    queued_ms = models.PositiveBigIntegerField(default=0)
    first_token_ms = models.PositiveBigIntegerField(null=True)
    duration_ms = models.PositiveBigIntegerField(default=0)

    objects = UsageRecordQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at"]
        indexes = [models.Index(fields=["user", "-started_at"]), models.Index(fields=["-started_at"])]

    def __str__(self) -> str:
        return f"{self.model}: {self.prompt_tokens} + {self.completion_tokens} tokens"
