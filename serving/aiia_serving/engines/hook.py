"""Runs first in every Ray worker process of ours (see ``environment``)."""

import importlib
import logging
import multiprocessing
import os
from multiprocessing import forkserver
from typing import Any

from aiia_serving.logs import configure_logging

# What a vLLM replica imports before it can do anything, several seconds of it.
_VLLM_MODULES = (
    "aiia_serving.engines.vllm_server",
    "ray.serve._private.replica",
    "vllm.v1.engine.async_llm",
    "vllm.entrypoints.openai.api_server",
)


# What its engine's process imports. A fork server has it ready, and is filled while the replica's process is.
_VLLM_ENGINE_MODULES = ["vllm.v1.engine.core", "vllm.v1.worker.cpu_worker", "vllm.v1.executor.uniproc_executor"]


def setup() -> None:
    _log_as_json()
    _keep_to_loopback()
    if os.environ.get("AIIA_PRELOAD") == "vllm":
        multiprocessing.set_forkserver_preload(_VLLM_ENGINE_MODULES)
        forkserver.ensure_running()
        for module in _VLLM_MODULES:
            importlib.import_module(module)


def _log_as_json() -> None:
    # Nobody shortens the files that Ray makes of a worker's output.
    configure_logging(logging.WARNING)
    ray = logging.getLogger("ray")
    ray.handlers.clear()
    ray.propagate = True


def _keep_to_loopback() -> None:
    # Serve's replicas open a gRPC port on every address, which takes pickled calls; there is no setting for it.
    import ray._common.tls_utils as tls_utils

    add_port = tls_utils.add_port_to_grpc_server

    def add_loopback_port(server: Any, address: str) -> Any:
        return add_port(server, address.replace("[::]", "127.0.0.1").replace("0.0.0.0", "127.0.0.1"))  # noqa: S104

    tls_utils.add_port_to_grpc_server = add_loopback_port
