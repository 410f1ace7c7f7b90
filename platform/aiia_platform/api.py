"""What the endpoints of the REST API have in common: who calls, what they may, and how often."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.http import HttpRequest
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework.authentication import BaseAuthentication  # type: ignore[import-untyped]
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied  # type: ignore[import-untyped]
from rest_framework.pagination import PageNumberPagination  # type: ignore[import-untyped]
from rest_framework.permissions import SAFE_METHODS, IsAuthenticated  # type: ignore[import-untyped]
from rest_framework.throttling import UserRateThrottle  # type: ignore[import-untyped]

from aiia_platform.accounts.models import ApiKey, Scope, User
from aiia_platform.config import config
from aiia_platform.db import in_db
from aiia_platform.options.models import current
from aiia_platform.problems import Problem


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


async def caller(request: HttpRequest) -> User | Process:
    """Who calls a view that is not the framework's, and may read. Raises a `Problem` for who may not."""
    try:
        found = await in_db(bearer, request)
    except AuthenticationFailed as error:
        raise Problem(401, "Unauthorized", str(error.detail)) from error
    if isinstance(found, ApiKey) and Scope.READ not in found.scopes:
        raise Problem(403, "Forbidden", f"This API key lacks the scope “{Scope.READ}”.")
    user = (found.user if isinstance(found, ApiKey) else found) or await request.auser()
    if not user.is_authenticated:
        raise Problem(401, "Unauthorized", "Log in, or send an API key.")
    return user


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


#: For the description of endpoints that `Versioned` guards.
IF_MATCH = OpenApiParameter(
    "If-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The `ETag` of what was read; when it has changed since, 412 is the answer and nothing is done",
)


class Versioned:
    """Gives an object an `ETag`, and refuses a change that is based on an older one (`If-Match`)."""

    #: What changes by itself and is not anybody's to overwrite.
    volatile: frozenset[str] = frozenset()

    def etag(self, shown: Mapping[str, Any]) -> str:
        lasting = {name: value for name, value in shown.items() if name not in self.volatile}
        digest = hashlib.sha256(json.dumps(lasting, sort_keys=True, default=str).encode()).hexdigest()
        return f'"{digest[:20]}"'

    def refuse_stale(self, request: Any, shown: Mapping[str, Any]) -> None:
        """Raises a `Problem` 412 when the request is based on something else than what is `shown` now."""
        wanted = request.headers.get("If-Match", "*")
        if wanted != "*" and self.etag(shown) not in {tag.strip() for tag in wanted.split(",")}:
            raise Problem(412, "Precondition failed", "Somebody changed this since you read it. Look at it again.")


class VersionedDetail(Versioned):
    """The same, for the framework's views of one object."""

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)  # type: ignore[misc]
        if response.status_code == 200 and isinstance(response.data, Mapping):
            response["ETag"] = self.etag(response.data)
        return response

    @transaction.atomic
    def update(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        view: Any = self
        # Nobody else may change it between the look and the change.
        view.queryset = view.queryset.select_for_update(of=("self",))
        self.refuse_stale(request, view.get_serializer(view.get_object()).data)
        return super().update(request, *args, **kwargs)  # type: ignore[misc]


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
