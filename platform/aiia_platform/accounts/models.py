"""People and their API keys."""

import hashlib
import secrets
import uuid
from typing import ClassVar, Self

from allauth.account.models import EmailAddress
from django.contrib.auth.models import AbstractUser, UserManager
from django.db import connection, models, transaction
from django.dispatch import receiver
from django.utils import timezone

from aiia_platform.accounts import revocations
from aiia_platform.options.models import current


class Users(UserManager["User"]):
    def may_register(self) -> bool:
        """Whether strangers may make an account. The first one always may, or nobody could ever come in."""
        return current("signup") != "closed" or not self.exists()


class User(AbstractUser):
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


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def active(self) -> Self:
        return self.filter(revoked_at=None)

    def verify(self, digest: str) -> "ApiKey | None":
        """The active key whose SHA-256 has this hex digest, with its last use noted, or None."""
        key = self.active().filter(sha256=digest, user__is_active=True).first()
        if key:
            self.filter(pk=key.pk).update(last_used_at=timezone.now())
        return key


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
    revoked_at = models.DateTimeField(null=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @classmethod
    def create(cls, user: User, name: str) -> tuple["ApiKey", str]:
        """Make a key and return it with its secret, which cannot be read again."""
        secret = "sk-" + secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        return cls.objects.create(user=user, name=name, prefix=secret[:8], sha256=digest), secret

    def revoke(self) -> None:
        """Refuse it from now on."""
        self.revoked_at = timezone.now()
        self.save(update_fields=["revoked_at"])
        revocations.announce(self.sha256)


@receiver(models.signals.post_delete, sender=ApiKey)
def _deleted(instance: ApiKey, **_: object) -> None:
    # A signal, since keys go with their user, without a call of `delete`.
    revocations.announce(instance.sha256)
