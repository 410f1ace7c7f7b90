"""Prometheus metrics of a process: one registry, one page, and labels that stay few."""

import hmac
from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
#: What the values of a label are counted under once there are too many.
OTHER = "other"
_LOOPBACK = {"127.0.0.1", "::1"}


class Few:
    """The values of one label: the first ``most`` different ones as they are, all further ones as ``other``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(value)
        return value


def page() -> bytes:
    """Every metric of this process as Prometheus's text, of the type ``CONTENT_TYPE``."""
    return generate_latest(REGISTRY)


def may_read(peer: str | None, headers: Mapping[str, str], token: str | None) -> bool:
    """Whether a client may see metrics: a holder of the internal token, or one on this machine itself."""
    given = headers.get("authorization", "")
    if token and hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return True
    # A proxy on this machine passes on who asked.
    return peer in _LOOPBACK and "x-forwarded-for" not in headers
