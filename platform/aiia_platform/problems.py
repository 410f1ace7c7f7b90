"""Errors of the HTTP interface as problem details (RFC 9457)."""

from typing import Any

from django.http import JsonResponse

CONTENT_TYPE = "application/problem+json"


def body(status: int, title: str, detail: str, **more: Any) -> dict[str, Any]:
    """`title` names the kind of problem, `detail` says what to do; `errors` are mistakes as `{"field", "message"}`."""
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}


def problem(status: int, title: str, detail: str, **more: Any) -> JsonResponse:
    """`body` as a response."""
    return JsonResponse(body(status, title, detail, **more), status=status, content_type=CONTENT_TYPE)
