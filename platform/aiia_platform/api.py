"""What the endpoints of the REST API have in common: who calls, what they may, and how often."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication  # type: ignore[import-untyped]
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied  # type: ignore[import-untyped]
from rest_framework.pagination import PageNumberPagination  # type: ignore[import-untyped]
from rest_framework.permissions import SAFE_METHODS, IsAuthenticated  # type: ignore[import-untyped]
from rest_framework.throttling import UserRateThrottle  # type: ignore[import-untyped]

from aiia_platform.accounts.models import ApiKey, Scope, User
from aiia_platform.config import config
from aiia_platform.db import in_db
from aiia_platform.options.models import current


@dataclass(frozen=True)
class Process:
    """One of aiia's own processes, which may do what administrators may."""

    pk: None = None
    is_authenticated: bool = True
    is_staff: bool = True


def bearer(request: HttpRequest) -> ApiKey | Process | None:
    """The key that the request brings, or `Process` for the internal token; None without one.

    Raises `AuthenticationFailed` for one that is wrong.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return None
    if hmac.compare_digest(token.encode(), config().internal_token.encode()):
        return Process()
    if key := ApiKey.objects.verify(hashlib.sha256(token.encode()).hexdigest()):
        return key
    raise AuthenticationFailed("This API key is wrong, it has expired, or it was revoked.")


async def caller(request: HttpRequest) -> User | Process | None:
    """Who calls a view that is not the framework's, and may read; raises like `bearer`."""
    found = await in_db(bearer, request)
    if isinstance(found, ApiKey) and Scope.READ not in found.scopes:
        raise AuthenticationFailed("This API key may not read.")
    user = (found.user if isinstance(found, ApiKey) else found) or await request.auser()
    return user if user.is_authenticated else None


class BearerAuthentication(BaseAuthentication):  # type: ignore[misc]  # the framework has no types
    """`Authorization: Bearer` with a user's API key, or with the token of aiia's own processes."""

    def authenticate(self, request: Any) -> tuple[User | Process, ApiKey | None] | None:
        found = bearer(request._request)
        if isinstance(found, ApiKey):
            return found.user, found
        return (found, None) if found else None

    def authenticate_header(self, request: Any) -> str:
        return "Bearer"


def administers(request: Any) -> bool:
    """Whether an administrator calls, with a session or with a key that may do what administrators may."""
    return bool(request.user.is_staff and (request.auth is None or Scope.ADMIN in request.auth.scopes))


def _not_an_administrator(request: Any) -> PermissionDenied:
    if request.user.is_staff:
        return PermissionDenied(f"This API key lacks the scope “{Scope.ADMIN}”.")
    return PermissionDenied("Only administrators may do this.")


class Known(IsAuthenticated):  # type: ignore[misc]
    """Everybody who is known; a key only as far as its scopes go."""

    def has_permission(self, request: Any, view: Any) -> bool:
        if not super().has_permission(request, view):
            return False
        scope = Scope.READ if request.method in SAFE_METHODS else Scope.WRITE
        if request.auth is not None and scope not in request.auth.scopes:
            raise PermissionDenied(f"This API key lacks the scope “{scope}”.")
        return True


class AdministratorsChange(Known):
    """Everybody who is known may look, administrators may change."""

    def has_permission(self, request: Any, view: Any) -> bool:
        if not super().has_permission(request, view):
            return False
        if request.method not in SAFE_METHODS and not administers(request):
            raise _not_an_administrator(request)
        return True


class Administrators(Known):
    """Administrators alone."""

    def has_permission(self, request: Any, view: Any) -> bool:
        if not super().has_permission(request, view):
            return False
        if not administers(request):
            raise _not_an_administrator(request)
        return True


class Throttle(UserRateThrottle):  # type: ignore[misc]
    """So many requests per user, or per address of who is not known. Our own processes are not counted."""

    def get_rate(self) -> str:
        return f"{current('api_rate')}/min"

    def allow_request(self, request: Any, view: Any) -> bool:
        return isinstance(request.user, Process) or bool(super().allow_request(request, view))


class Pages(PageNumberPagination):  # type: ignore[misc]
    """`?page=` and `?page_size=` of a list."""

    page_size = 100
    page_size_query_param = "page_size"
    max_page_size = 1000
