"""The demand for each model, asked from the gateway's ``GET /v1/queue`` by a thread of its own."""

import json
import logging
import os
import threading
import time
import urllib.request
from functools import cache

from aiia_serving.autoscaling.decision import Demand
from aiia_serving.settings import read_secret

log = logging.getLogger(__name__)

_ASK_EVERY_S = 0.5
_ANSWERS_WITHIN_S = 5
# What was heard last counts for this long; after that nothing is known.
_FRESH_S = 3
# With nobody interested for this long, the gateway is left alone.
_INTEREST_S = 10


@cache
def demands() -> "Demands":
    """The one follower of this process, for the gateway of its environment."""
    return Demands(os.environ.get("AIIA_GATEWAY_URL"), read_secret("AIIA_INTERNAL_TOKEN"))


class Demands:
    """Follows all queues at ``gateway_url`` (it ends with ``/v1``) while anybody asks."""

    def __init__(self, gateway_url: str | None, token: str | None) -> None:
        self._url = f"{gateway_url.rstrip('/')}/queue" if gateway_url else None
        self._token = token
        self._models: dict[str, Demand] = {}
        self._heard_at = float("-inf")
        self._asked_at = float("-inf")
        self._asked = threading.Event()
        if self._url:
            threading.Thread(target=self._follow, name="demand", daemon=True).start()

    def get(self, queue: str) -> Demand | None:
        """The demand of one queue, or None while the gateway does not say."""
        self._asked_at = time.monotonic()
        self._asked.set()
        if self._asked_at - self._heard_at > _FRESH_S:
            return None
        return self._models.get(queue, Demand())

    def _follow(self) -> None:
        reachable = True
        while True:
            self._asked.wait()
            if time.monotonic() - self._asked_at > _INTEREST_S:
                self._asked.clear()
                continue
            try:
                self._models = self._ask()
                self._heard_at = time.monotonic()
                reachable = True
            except (OSError, ValueError, KeyError, TypeError) as error:
                if reachable:
                    log.warning("no demand from the gateway", extra={"fields": {"error": str(error)[:200]}})
                reachable = False
            time.sleep(_ASK_EVERY_S)

    def _ask(self) -> dict[str, Demand]:
        headers = {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(str(self._url), headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=_ANSWERS_WITHIN_S) as response:  # noqa: S310
            models = json.load(response)["models"]
        return {
            name: Demand(load["waiting"], load["running"], load["slots"], load.get("work_s"))
            for name, load in models.items()
        }
