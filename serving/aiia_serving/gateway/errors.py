"""Errors in OpenAI's shape."""

import json
from collections.abc import Iterable
from typing import Any


class ApiError(Exception):
    """An error that the caller is told: an HTTP status with OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        kind: str = "invalid_request_error",
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(max(1, round(self.retry_after_s)))}

    def body(self) -> bytes:
        return json.dumps({"error": self.error}, ensure_ascii=False).encode()

    def frame(self) -> bytes:
        """The error as an SSE frame, once the status has been sent; ``status`` is what it would have been."""
        error = {**self.error, "status": self.status}
        if self.retry_after_s is not None:
            error["retry_after_s"] = round(self.retry_after_s, 1)
        return b"data: %b\n\n" % json.dumps({"error": error}, ensure_ascii=False).encode()


def unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


def model_not_found(model: str, known: Iterable[str]) -> ApiError:
    names = ", ".join(sorted(known)) or "none"
    return ApiError(
        404, f"The model '{model}' does not exist. Models here: {names}.", code="model_not_found", param="model"
    )


def unsupported(model: str, what: str, capabilities: Iterable[str]) -> ApiError:
    message = f"The model '{model}' does not do {what}. It does: {', '.join(capabilities)}."
    return ApiError(400, message, code="unsupported_by_model", param="model")


def unavailable(message: str, *, code: str = "model_unavailable", retry_after_s: float = 10) -> ApiError:
    return ApiError(503, message, kind="server_error", code=code, retry_after_s=retry_after_s)


def overloaded(message: str, *, code: str, retry_after_s: float) -> ApiError:
    return ApiError(429, message, kind="rate_limit_error", code=code, retry_after_s=retry_after_s)


def upstream_failed(message: str, *, code: str = "upstream_error") -> ApiError:
    return ApiError(502, message, kind="server_error", code=code)


def internal_error(request_id: str) -> ApiError:
    return ApiError(
        500, f"Internal error. The log has it under request {request_id}.", kind="server_error", code="internal_error"
    )


def stalled() -> ApiError:
    return ApiError(504, "The model has been silent for too long.", kind="server_error", code="stream_stalled")
