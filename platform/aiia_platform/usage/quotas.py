"""Whether a user has used up what they may use in a day."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import F, Sum

from aiia_platform.accounts.models import User
from aiia_platform.problems import Problem
from aiia_platform.usage.models import UsageRecord

_WORDS = {"daily_tokens": "tokens", "daily_gpu_seconds": "GPU seconds"}


def used_today(user: User, now: datetime | None = None) -> dict[str, Any]:
    """What counts against the limits, since 0:00 UTC, and what it cost: None without a price."""
    midnight = (now or datetime.now(UTC)).replace(hour=0, minute=0, second=0, microsecond=0)
    sums = UsageRecord.objects.filter(user=user, started_at__gte=midnight).aggregate(
        daily_tokens=Sum(F("prompt_tokens") + F("completion_tokens"), default=0),
        gpu_ms=Sum("gpu_ms", default=0),
        cost=Sum("cost"),
    )
    seconds = sums["gpu_ms"] // 1000
    return {"daily_tokens": sums["daily_tokens"], "daily_gpu_seconds": seconds, "cost": sums["cost"]}


def exceeded(user: User, now: datetime | None = None) -> Problem | None:
    """Why the user may use no more today, with `retry_after` in seconds; None when they may."""
    limits = {name: limit for name in _WORDS if (limit := user.limit(name))}
    if not limits:
        return None
    used = used_today(user, now)
    for name, limit in limits.items():
        if used[name] >= limit:
            return Problem(
                429,
                "The day's share is used up",
                f"You have used your {limit:,} {_WORDS[name]} of today. There are more at 0:00 UTC.",
                retry_after=_seconds_left(now or datetime.now(UTC)),
            )
    return None


def exceeded_by(user_id: int) -> Problem | None:
    """`exceeded` of a user by number."""
    return exceeded(User.objects.select_related("role").get(pk=user_id))


def _seconds_left(now: datetime) -> int:
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(1, int((tomorrow - now).total_seconds()))
