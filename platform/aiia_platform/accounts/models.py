"""People and their API keys."""

import hashlib
import secrets
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, Self

from allauth.account.models import EmailAddress
from django.contrib.auth.models import AbstractUser, UserManager
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models, transaction
from django.db.models import Q
from django.dispatch import receiver
from django.utils import timezone

from aiia_platform.accounts import pictures, revocations
from aiia_platform.options.models import current


class LastAdministrator(Exception):
    """Nobody would be left who can administrate."""


class Users(UserManager["User"]):
    def may_register(self) -> bool:
        """Whether strangers may make an account. The first one always may, or nobody could ever come in."""
        return current("signup") != "closed" or not self.exists()


class Quota(models.Model):
    """How much may be used in a day (UTC). Empty: what stands behind it decides, a user's role, then the options."""

    daily_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    daily_gpu_seconds = models.PositiveBigIntegerField(null=True, blank=True)

    class Meta:
        abstract = True


class Role(Quota):
    """What a group of people may do. Administrators may do everything."""

    name = models.CharField(max_length=100, unique=True)
    may_use_api = models.BooleanField("May make API keys", default=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class User(Quota, AbstractUser):  # noqa: DJ008  # AbstractUser has it
    """A person. `email` is optional; `username` is what the platform makes from it when none is given."""

    class Theme(models.TextChoices):
        SYSTEM = "system", "System"
        LIGHT = "light", "Light"
        DARK = "dark", "Dark"

    email = models.EmailField(blank=True, null=True, unique=True, default=None)  # type: ignore[assignment]
    theme = models.CharField(max_length=8, choices=Theme, default=Theme.SYSTEM)
    sidebar_open = models.BooleanField(default=True)
    #: Registered, and not yet let in by an administrator.
    is_waiting = models.BooleanField(default=False)
    role = models.ForeignKey(Role, on_delete=models.SET_NULL, null=True, blank=True, related_name="users")

    objects: ClassVar[Users] = Users()

    def save(self, *args: object, **kwargs: object) -> None:
        # The column is unique, so that "none" must not be the empty string.
        self.email = self.email or None
        super().save(*args, **kwargs)  # type: ignore[arg-type]

    @transaction.atomic
    def register(self, *, must_wait: bool = False) -> Self:
        """Save a new person. The first one of an installation becomes its administrator; later ones can't log in
        until they are approved, if they must wait for that.
        """
        with connection.cursor() as cursor:
            # Two first sign-ups at once must not both become administrators.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('accounts.register'))")
        if not User.objects.exists():
            self.is_staff = self.is_superuser = True
        elif must_wait:
            self.is_active, self.is_waiting = False, True
        self.save()
        return self

    def vouch(self) -> None:
        """Count the address as confirmed, since somebody who may says so."""
        if self.email:
            EmailAddress.objects.update_or_create(
                user=self, email=self.email.lower(), defaults={"verified": True, "primary": True}
            )

    def approve(self) -> None:
        """Let in who waits."""
        self.is_active, self.is_waiting = True, False
        self.save(update_fields=["is_active", "is_waiting"])

    @property
    def about(self) -> "UserProfile":
        """The profile, a new one when there is none yet."""
        try:
            return self.profile
        except UserProfile.DoesNotExist:
            return UserProfile(user=self)

    @property
    def choices(self) -> "UserSettings":
        """The settings, new ones when there are none yet."""
        try:
            return self.settings
        except UserSettings.DoesNotExist:
            return UserSettings(user=self)

    @property
    def may_use_api(self) -> bool:
        """Whether they may have API keys."""
        return self.is_staff or self.role is None or self.role.may_use_api

    def limit(self, name: str) -> int:
        """`daily_tokens` or `daily_gpu_seconds`: the user's own figure, else the role's, else the installation's.

        0 means as many as they like.
        """
        own = getattr(self, name)
        if own is None and self.role:
            own = getattr(self.role, name)
        return int(current(name) if own is None else own)

    @transaction.atomic
    def change(self, *, is_staff: bool, **fields: Any) -> None:
        """Set whether they administrate, and other fields by name. Raises `LastAdministrator`."""
        if not is_staff:
            self._refuse_if_last()
        self.is_staff = self.is_superuser = is_staff
        for name, value in fields.items():
            setattr(self, name, value)
        self.save(update_fields=["is_staff", "is_superuser", *fields])

    @transaction.atomic
    def close(self) -> None:
        """Let in no more: no login, no key, and pages that are open end. Raises `LastAdministrator`."""
        self._refuse_if_last()
        self.is_active = False
        self.save(update_fields=["is_active"])
        for key in self.api_keys.active():
            revocations.announce(key.sha256)

    def _refuse_if_last(self) -> None:
        # Locked, so that the last two cannot demote each other at once.
        others = User.objects.select_for_update().filter(is_staff=True, is_active=True)
        administrators = set(others.values_list("pk", flat=True))
        if administrators == {self.pk}:
            raise LastAdministrator


class UserProfile(models.Model):
    """How a person shows themselves, and how they like pages to be."""

    class TextSize(models.TextChoices):
        NORMAL = "normal", "Normal"
        LARGE = "large", "Large"

    class Width(models.TextChoices):
        NORMAL = "normal", "Narrow"
        WIDE = "wide", "Wide"

    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="profile", primary_key=True)
    #: A square WebP, as `pictures.avatar` makes it; empty without one.
    avatar = models.BinaryField(default=bytes, blank=True)
    bio = models.TextField(max_length=1000, blank=True)
    #: `text_size` and `width`, those that differ from the first choice.
    preferences = models.JSONField(default=dict, blank=True)
    #: When the avatar was given, so that browsers keep one until there is another.
    avatar_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"profile of {self.user}"

    def show(self, picture: bytes) -> None:
        """Take a picture as the avatar; empty removes it. Raises `pictures.Unusable`."""
        self.avatar = pictures.avatar(picture) if picture else b""
        self.avatar_at = timezone.now() if picture else None
        self.save()


class UserSettings(models.Model):
    """What a person's new chats begin with. `theme` is a column of `User`, since every page reads it."""

    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="settings", primary_key=True)
    #: `model`, `system_prompt`, `temperature`, `top_p`, `max_tokens`: those that are chosen.
    llm_preferences = models.JSONField(default=dict, blank=True)
    #: What a model may write after answers, by `AFTERWORDS`: those that differ from its first choice.
    afterwords = models.JSONField(default=dict, blank=True)

    #: `titles`, `tags` and `follow_ups` as the installation has them, and whether `temporary` chats get them, too.
    AFTERWORDS: ClassVar = {"titles": True, "tags": True, "follow_ups": True, "temporary": False}

    def __str__(self) -> str:
        return f"settings of {self.user}"

    def wants_afterword(self, name: str) -> bool:
        """Whether a model may write this after answers, where the installation lets it."""
        return bool(self.afterwords.get(name, self.AFTERWORDS[name]))

    @property
    def for_new_chats(self) -> dict[str, Any]:
        """What a new chat begins with, as `Chat.send` takes it."""
        chosen = dict(self.llm_preferences)
        chosen.pop("model", None)
        system_prompt = chosen.pop("system_prompt", "")
        return {"system_prompt": system_prompt, "params": chosen} if system_prompt or chosen else {}


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def active(self) -> Self:
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None)

    def verify(self, digest: str) -> "ApiKey | None":
        """The active key whose SHA-256 has this hex digest, with its last use noted, or None."""
        key = self.active().select_related("user__role").filter(sha256=digest, user__is_active=True).first()
        if key:
            self.filter(pk=key.pk).update(last_used_at=timezone.now())
        return key


class Scope(models.TextChoices):
    """What a key may do."""

    MODELS = "models", "Use models (/v1)"
    READ = "read", "Read chats, usage and settings (/api)"
    WRITE = "write", "Change and send (/api)"
    ADMIN = "admin", "Administrate, if its owner may"


def _all_scopes() -> list[str]:
    return list(Scope.values)


class ApiKey(models.Model):
    """A secret that lets a program act for its owner. Only its hash is stored."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    #: The first characters of the secret, so that its owner recognises it.
    prefix = models.CharField(max_length=12)
    sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    scopes = ArrayField(models.CharField(max_length=10, choices=Scope), default=_all_scopes)
    revoked_at = models.DateTimeField(null=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @classmethod
    def create(
        cls, user: User, name: str, scopes: Iterable[str] = tuple(Scope.values), expires_at: datetime | None = None
    ) -> tuple["ApiKey", str]:
        """Make a key and return it with its secret, which cannot be read again."""
        secret = "sk-" + secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        fields: dict[str, Any] = {"scopes": sorted(scopes), "expires_at": expires_at}
        return cls.objects.create(user=user, name=name, prefix=secret[:8], sha256=digest, **fields), secret

    @property
    def scope_words(self) -> list[str]:
        """What it may do, as people read it."""
        return [str(scope.label) for scope in Scope if scope in self.scopes]

    def revoke(self) -> None:
        """Refuse it from now on."""
        self.revoked_at = timezone.now()
        self.save(update_fields=["revoked_at"])
        revocations.announce(self.sha256)


@receiver(models.signals.post_delete, sender=ApiKey)
def _deleted(instance: ApiKey, **_: object) -> None:
    # A signal, since keys go with their user, without a call of `delete`.
    revocations.announce(instance.sha256)
