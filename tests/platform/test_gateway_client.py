"""What the platform makes of what a gateway says."""

import pytest

from aiia_platform.gateway import GatewayError, _error_frame

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("frame", "status", "final"),
    [
        ({"message": "too long", "code": "context_length_exceeded", "status": 400}, 400, True),
        ({"message": "busy", "code": "queue_timeout", "status": 429, "retry_after_s": 2.5}, 429, False),
        ({"message": "vLLM puts the number here", "code": 400}, 400, True),
        ({"message": "no number at all", "code": "odd"}, 500, False),
        ("only a text", 500, False),
    ],
)
def test_errors_after_the_headers(frame: object, status: int, final: bool) -> None:
    error = _error_frame(frame)
    assert isinstance(error, GatewayError)
    assert (error.status, error.is_final) == (status, final)
    assert str(error)
    assert error.retry_after == (2.5 if status == 429 else None)
