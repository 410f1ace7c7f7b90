"""The manager's hand in Ray: a process of its own, because a Ray driver ends with its cluster.

Reads one JSON line per change of what is wanted, ``{"applications": [ServeApplicationSchema, …]}``,
and writes one per change of what is: ``{"applications": {name: AppReport}}``. Ends when its input does, or when Ray is
gone.
"""

import json
import logging
import os
import queue
import sys
import threading
from typing import Any, TypedDict

from aiia_serving.engines.environment import RaySettings, ray_environment
from aiia_serving.logs import configure_logging

log = logging.getLogger(__name__)

_POLL_S = 0.3
_RAY_ANSWERS_WITHIN_S = 10


class AppReport(TypedDict):
    """``status`` is Serve's of the application, ``message`` explains it, ``running`` counts running replicas."""

    status: str
    message: str
    running: int
    pids: list[int]


def main() -> None:
    configure_logging(logging.WARNING)
    # Ray writes to standard output, which is the manager's.
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    wanted: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(wanted,), daemon=True).start()
    first = wanted.get()
    if first is None:
        return
    settings = RaySettings.from_environment()
    os.environ.update(ray_environment(settings))
    cluster = _Cluster(settings)
    cluster.apply(first)
    said: dict[str, AppReport] | None = None
    while True:
        report = cluster.report()
        if report != said:
            said = report
            print(json.dumps({"applications": report}), file=output)
        try:
            change = wanted.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if change is None:
            # Not an orderly shutdown of the driver: Ray takes its time for it, and everything of ours is detached.
            os._exit(0)
        cluster.apply(change)


def _read(wanted: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        wanted.put(json.loads(line))
    wanted.put(None)


class _Cluster:
    def __init__(self, settings: RaySettings) -> None:
        import ray
        from ray import serve
        from ray.serve.context import _get_global_client

        ray.init(address=settings.address, namespace="serve", log_to_driver=False, logging_level="warning")
        self._http = {"host": "127.0.0.1", "port": settings.serve_port}
        serve.start(proxy_location="HeadOnly", http_options=self._http)
        self._ray = ray
        self._client = _get_global_client()

    def apply(self, wanted: dict[str, Any]) -> None:
        """Makes the applications those wanted. Ones that are as they were go on undisturbed."""
        from ray.serve.schema import ServeDeploySchema

        configuration = {
            "proxy_location": "HeadOnly",
            "http_options": self._http,
            "applications": wanted["applications"],
        }
        self._client.deploy_apps(ServeDeploySchema.model_validate(configuration))

    def report(self) -> dict[str, AppReport]:
        # With a time limit: a driver whose cluster is gone would wait for ever.
        details = self._ray.get(
            self._client._controller.get_serve_instance_details.remote(), timeout=_RAY_ANSWERS_WITHIN_S
        )
        return {name: _app_report(name, application) for name, application in details["applications"].items()}


def _app_report(name: str, application: dict[str, Any]) -> AppReport:
    messages = [application.get("message")]
    pids = []
    for deployment, details in application.get("deployments", {}).items():
        messages.append(details.get("message"))
        # Beside the model's deployment, "<class>:<name>", there is the router's.
        if deployment.endswith(f":{name}"):
            pids = [replica["pid"] for replica in details.get("replicas", []) if replica["state"] == "RUNNING"]
    return {
        "status": str(application["status"]),
        "message": " ".join(message for message in messages if message),
        "running": len(pids),
        "pids": pids,
    }


if __name__ == "__main__":
    main()
