"""The manager's hand in Ray: a process of its own, because a Ray driver ends with its cluster.

Reads one JSON line per command: ``{"applications": [ServeApplicationSchema, …]}`` says what is wanted from now on,
``{"call": {"id": 1, "application": "…", "method": "sleep"}}`` calls a method of a model's one replica.
Writes ``{"applications": {name: AppReport}}`` at every change of what is, and ``{"answer": {"id": 1, "error": null}}``.
Ends when its input does, or when Ray is gone.
"""

import asyncio
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
# Weights of hundreds of gigabytes go from GPU to memory, or back.
_CALL_ENDS_WITHIN_S = 600


class AppReport(TypedDict):
    """``status`` is Serve's of the application, ``message`` explains it, ``broken`` says that no replica comes up.

    ``running`` counts replicas that answer, ``target`` those that Serve wants, ``stopping`` those that finish what they
    have begun.
    """

    status: str
    message: str
    broken: bool
    running: int
    target: int
    stopping: int
    pids: list[int]


def main() -> None:
    configure_logging(logging.WARNING)
    # Ray writes to standard output, which is the manager's.
    output = _Output(os.dup(1))
    os.dup2(2, 1)
    commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(commands,), daemon=True).start()
    first = commands.get()
    if first is None:
        return
    settings = RaySettings.from_environment()
    os.environ.update(ray_environment(settings))
    cluster = _Cluster(settings, output)
    cluster.obey(first)
    said: dict[str, AppReport] | None = None
    while True:
        report = cluster.report()
        if report != said:
            said = report
            output.write({"applications": report})
        try:
            command = commands.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if command is None:
            # Not an orderly shutdown of the driver: Ray takes its time for it, and everything of ours is detached.
            os._exit(0)
        cluster.obey(command)


def _read(commands: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    commands.put(None)


class _Output:
    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", buffering=1)
        self._lock = threading.Lock()

    def write(self, message: dict[str, Any]) -> None:
        with self._lock:
            try:
                print(json.dumps(message), file=self._file)
            except BrokenPipeError:
                # The manager was killed; as at the end of its commands.
                os._exit(0)


class _Cluster:
    def __init__(self, settings: RaySettings, output: _Output) -> None:
        import ray
        from ray import serve
        from ray.serve.context import _get_global_client

        ray.init(address=settings.address, namespace="serve", log_to_driver=False, logging_level="warning")
        self._http = {"host": "127.0.0.1", "port": settings.serve_port}
        serve.start(proxy_location="HeadOnly", http_options=self._http)
        self._ray = ray
        self._serve = serve
        self._client = _get_global_client()
        self._output = output
        # Serve's settings for throughput make handles that work in one running event loop only.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def obey(self, command: dict[str, Any]) -> None:
        """Carries one command out; a call goes on in a thread of its own."""
        if "call" in command:
            threading.Thread(target=self._call, args=(command["call"],), daemon=True).start()
        else:
            self._apply(command["applications"])

    def _apply(self, applications: list[dict[str, Any]]) -> None:
        """Makes the applications those wanted. Ones that are as they were go on undisturbed."""
        from ray.serve.schema import ServeDeploySchema

        configuration = {"proxy_location": "HeadOnly", "http_options": self._http, "applications": applications}
        self._client.deploy_apps(ServeDeploySchema.model_validate(configuration))

    def _call(self, call: dict[str, Any]) -> None:
        error = None
        try:
            application = self._details()[call["application"]]
            deployment = _model_deployment(call["application"], application)
            calling = self._call_replica(call["application"], deployment, call["method"])
            asyncio.run_coroutine_threadsafe(calling, self._loop).result()
        except Exception as problem:
            error = str(problem).strip()[-400:] or type(problem).__name__
        self._output.write({"answer": {"id": call["id"], "error": error}})

    async def _call_replica(self, application: str, deployment: str, method: str) -> None:
        handle = self._serve.get_deployment_handle(deployment, application)
        async with asyncio.timeout(_CALL_ENDS_WITHIN_S):
            await getattr(handle, method).remote()

    def report(self) -> dict[str, AppReport]:
        return {name: _app_report(name, application) for name, application in self._details().items()}

    def _details(self) -> dict[str, Any]:
        # With a time limit: a driver whose cluster is gone would wait for ever.
        details = self._ray.get(
            self._client._controller.get_serve_instance_details.remote(), timeout=_RAY_ANSWERS_WITHIN_S
        )
        applications: dict[str, Any] = details["applications"]
        return applications


def _model_deployment(name: str, application: dict[str, Any]) -> str:
    """The model's own among the application's deployments, ``<class>:<name>``; there is the router's beside it."""
    for deployment in application.get("deployments", {}):
        # Ray's LLM library allows no dots in it.
        if deployment.partition(":")[2] in (name, name.replace(".", "_")) and not deployment.startswith("LLMRouter"):
            return str(deployment)
    raise LookupError(f"{name} is not deployed")


def _app_report(name: str, application: dict[str, Any]) -> AppReport:
    deployments = application.get("deployments", {})
    messages = [application.get("message"), *(details.get("message") for details in deployments.values())]
    try:
        model = deployments[_model_deployment(name, application)]
    except LookupError:
        model = {}
    replicas = model.get("replicas", [])
    pids = [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]
    return {
        "status": str(application["status"]),
        "message": " ".join(message for message in messages if message),
        "broken": application["status"] == "DEPLOY_FAILED"
        or (model.get("status") == "UNHEALTHY" and model.get("status_trigger") == "REPLICA_STARTUP_FAILED"),
        "running": len(pids),
        "target": int(model.get("target_num_replicas", 0)),
        "stopping": sum(replica["state"] == "STOPPING" for replica in replicas),
        "pids": pids,
    }


if __name__ == "__main__":
    main()
