"""Errors of the HTTP interface as problem details (RFC 9457)."""

from collections.abc import Iterator
from typing import Any

from django.db import IntegrityError
from django.http import JsonResponse
from rest_framework.exceptions import APIException, ValidationError  # type: ignore[import-untyped]
from rest_framework.response import Response  # type: ignore[import-untyped]

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """A refusal that an endpoint answers with: `title` names its kind, `detail` says what to do.

    `more` are further members of the answer, such as `errors`, the mistakes of a body as `{"field", "message"}`.
    """

    def __init__(self, status: int, title: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.more = status, title, detail, more

    @property
    def body(self) -> dict[str, Any]:
        return {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail, **self.more}

    def response(self) -> JsonResponse:
        return JsonResponse(self.body, status=self.status, content_type=CONTENT_TYPE)


def problem(status: int, title: str, detail: str, **more: Any) -> JsonResponse:
    """A `Problem` as a response."""
    return Problem(status, title, detail, **more).response()


def handle(error: Exception, context: dict[str, Any]) -> Any:
    """What the REST framework answers to an exception; None for one that is a mistake of ours."""
    if isinstance(error, Problem):
        return Response(error.body, status=error.status, content_type=CONTENT_TYPE)
    if isinstance(error, IntegrityError):
        # Two did the same at once; what a check had still found free is taken.
        return handle(Problem(409, "Conflict", "Somebody changed this just now. Look at it again."), context)
    # Its module loads what the settings name, which raises problems.
    from rest_framework.views import exception_handler  # type: ignore[import-untyped]

    response = exception_handler(error, context)
    if response is None:
        return None
    if isinstance(error, ValidationError):
        found = Problem(response.status_code, "Bad request", "See errors.", errors=list(_mistakes(error.detail)))
    else:
        detail = error.detail if isinstance(error, APIException) else response.data["detail"]
        found = Problem(response.status_code, response.status_text, str(detail))
    response.data, response.content_type = found.body, CONTENT_TYPE
    return response


def _mistakes(detail: Any, field: str = "") -> Iterator[dict[str, str]]:
    parts = detail.items() if isinstance(detail, dict) else [("", part) for part in detail]
    for name, part in parts:
        path = ".".join(filter(None, (field, str(name))))
        if isinstance(part, dict | list):
            yield from _mistakes(part, path)
        else:
            yield {"field": path, "message": str(part)}
