"""Values that administrators gave on the page."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from django.conf import settings
from django.db import DatabaseError, models, transaction

from aiia_platform.options.registry import OPTIONS, Option, Value, origins
from aiia_platform.sealed import seal, unseal

#: Seconds after which a process sees what another one changed.
FRESH = 5.0


@dataclass(frozen=True)
class Setting:
    """An option with every value it has, as `(origin, value)`; the last one is in effect."""

    option: Option
    origins: list[tuple[str, Value]]

    @property
    def value(self) -> Value:
        return self.origins[-1][1]

    @property
    def origin(self) -> str:
        return self.origins[-1][0]

    @property
    def is_fixed(self) -> bool:
        """Whether the environment decides, so that the page cannot."""
        return self.origin == "environment"


class StoredOption(models.Model):
    """One value. Secrets are sealed."""

    name = models.CharField(max_length=100, primary_key=True)
    value = models.JSONField()
    changed_at = models.DateTimeField(auto_now=True)
    changed_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    _cached: ClassVar[tuple[float, dict[str, Any]]] = (-FRESH, {})

    def __str__(self) -> str:
        return self.name

    @classmethod
    def stored(cls) -> dict[str, Any]:
        """All stored values by name, at most `FRESH` seconds old."""
        at, values = StoredOption._cached
        if time.monotonic() - at < FRESH:
            return values
        try:
            values = {
                row.name: unseal(row.value) if OPTIONS[row.name].is_secret else row.value
                for row in cls.objects.all()
                if row.name in OPTIONS
            }
        except DatabaseError:
            # Before the first migration there is no table, and the defaults are right.
            return {}
        StoredOption._cached = (time.monotonic(), values)
        return values

    @classmethod
    def forget(cls) -> None:
        """Read anew next time."""
        StoredOption._cached = (-FRESH, {})

    @classmethod
    @transaction.atomic
    def change(cls, values: Mapping[str, Value | None], by: Any = None) -> None:
        """Store values by name; None goes back to the default."""
        for name, value in values.items():
            if value is None:
                cls.objects.filter(name=name).delete()
            else:
                kept = seal(str(value)) if OPTIONS[name].is_secret else value
                cls.objects.update_or_create(name=name, defaults={"value": kept, "changed_by": by})
        transaction.on_commit(cls.forget)
        cls.forget()


def all_settings() -> list[Setting]:
    """Every option as it stands, in the registry's order."""
    stored = StoredOption.stored()
    return [Setting(option, origins(option, stored.get(name))) for name, option in OPTIONS.items()]


def current(name: str) -> Any:
    """The value of an option that is in effect."""
    return origins(OPTIONS[name], StoredOption.stored().get(name))[-1][1]
