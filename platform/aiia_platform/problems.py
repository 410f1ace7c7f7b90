"""Errors of the HTTP interface as problem details (RFC 9457)."""

from django.http import JsonResponse


def problem(status: int, title: str, detail: str) -> JsonResponse:
    """A response of type `application/problem+json`: `title` names the kind of problem, `detail` says what to do."""
    return JsonResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail},
        status=status,
        content_type="application/problem+json",
    )
