"""What the endpoints of the REST API have in common: who calls, what they may, and how often."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication  # type: ignore[import-untyped]
from rest_framework.exceptions import AuthenticationFailed  # type: ignore[import-untyped]
from rest_framework.pagination import PageNumberPagination  # type: ignore[import-untyped]
from rest_framework.permissions import SAFE_METHODS, IsAuthenticated  # type: ignore[import-untyped]
from rest_framework.throttling import UserRateThrottle  # type: ignore[import-untyped]

from aiia_platform.accounts.models import ApiKey, User
from aiia_platform.config import config
from aiia_platform.db import in_db


@dataclass(frozen=True)
class Role:
    """One of aiia's own processes, which may do what administrators may."""

    pk: None = None
    is_authenticated: bool = True
    is_staff: bool = True


def bearer(request: HttpRequest) -> User | Role | None:
    """Whose key or token the request brings; None without one. Raises `AuthenticationFailed` for one that is wrong."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return None
    if hmac.compare_digest(token.encode(), config().internal_token.encode()):
        return Role()
    if key := ApiKey.objects.verify(hashlib.sha256(token.encode()).hexdigest()):
        return key.user
    raise AuthenticationFailed("This API key is wrong, or it was revoked.")


async def caller(request: HttpRequest) -> User | Role | None:
    """Who calls a view that is not the framework's; raises like `bearer`."""
    user = await in_db(bearer, request) or await request.auser()
    return user if user.is_authenticated else None


class BearerAuthentication(BaseAuthentication):  # type: ignore[misc]  # the framework has no types
    """`Authorization: Bearer` with a user's API key, or with the token of aiia's own processes."""

    def authenticate(self, request: Any) -> tuple[User | Role, None] | None:
        user = bearer(request._request)
        return (user, None) if user else None

    def authenticate_header(self, request: Any) -> str:
        return "Bearer"


class AdministratorsChange(IsAuthenticated):  # type: ignore[misc]
    """Everybody who is known may look, administrators may change."""

    message = "Only administrators may do this."

    def has_permission(self, request: Any, view: Any) -> bool:
        known = super().has_permission(request, view)
        return bool(known and (request.method in SAFE_METHODS or request.user.is_staff))


class Throttle(UserRateThrottle):  # type: ignore[misc]
    """So many requests per user, or per address of who is not known. Our own processes are not counted."""

    def allow_request(self, request: Any, view: Any) -> bool:
        return isinstance(request.user, Role) or bool(super().allow_request(request, view))


class Pages(PageNumberPagination):  # type: ignore[misc]
    """`?page=` and `?page_size=` of a list."""

    page_size = 100
    page_size_query_param = "page_size"
    max_page_size = 1000
