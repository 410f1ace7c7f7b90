"""What the other roles ask of the platform, with the internal token."""

import hmac
import json
from collections.abc import Callable
from functools import wraps

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from aiia_platform.accounts.models import ApiKey, Scope
from aiia_platform.config import config
from aiia_platform.problems import Problem, problem
from aiia_platform.usage.models import UsageRecord
from aiia_platform.usage.quotas import exceeded
from aiia_platform.usage.wire import read


def is_internal(request: HttpRequest) -> bool:
    """Whether the caller has the internal token."""
    expected = f"Bearer {config().internal_token}"
    return hmac.compare_digest(request.headers.get("Authorization", "").encode(), expected.encode())


def is_local(request: HttpRequest) -> bool:
    """Whether the caller is on this machine."""
    # A proxy on this machine passes on who asked.
    return request.META.get("REMOTE_ADDR") in {"127.0.0.1", "::1"} and "X-Forwarded-For" not in request.headers


def internal(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Let only bearers of the internal token in. Bearers come without cookies, so that CSRF has no meaning."""

    @csrf_exempt
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if not is_internal(request):
            return problem(401, "Unauthorized", "This address is for aiia's own processes.")
        return view(request)

    return guarded


@internal
@require_POST
def verify_key(request: HttpRequest) -> HttpResponse:
    """`{"key_sha256": hex}` to `{"key_id", "user_id"}`, or 404.

    `refusal` stands beside them when the key is good and may yet not use models now: a problem with its `status`.
    """
    try:
        digest = str(json.loads(request.body)["key_sha256"])
    except (ValueError, KeyError, TypeError):
        return problem(400, "Bad request", 'Send {"key_sha256": "<hex>"}.')
    key = ApiKey.objects.verify(digest)
    if key is None:
        return problem(404, "Not found", "No active key has this hash.")
    answer: dict[str, object] = {"key_id": str(key.id), "user_id": str(key.user_id)}
    if refusal := _refusal(key):
        answer["refusal"] = refusal.body
    return JsonResponse(answer)


def _refusal(key: ApiKey) -> Problem | None:
    if Scope.MODELS not in key.scopes:
        return Problem(403, "Forbidden", "This key may not use models. Make one that may on the settings page.")
    if not key.user.may_use_api:
        return Problem(403, "Forbidden", "Your role has no API access. An administrator can change that.")
    return exceeded(key.user)


@internal
@require_POST
def report_usage(request: HttpRequest) -> HttpResponse:
    """`{"records": [...]}` in the shape of `usage.wire.Record`. Records with a mistake are named, the others stored."""
    try:
        reported = list(json.loads(request.body)["records"])
    except (ValueError, KeyError, TypeError):
        return problem(400, "Bad request", 'Send {"records": [...]}.')
    records, mistakes = read(reported)
    UsageRecord.objects.take(records)
    if mistakes:
        return problem(400, "Bad request", "These records were not stored.", errors=mistakes)
    return HttpResponse(status=204)
