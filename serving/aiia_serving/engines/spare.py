"""A spare worker process for the next replica: one that has imported everything and waits.

Most of a replica's start is importing, which a process can do before it is known what for. Ray gives the spare to the
next actor of the same job and runtime environment, so it replaces a replica that dies.
"""

import asyncio
import logging

import psutil
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import common_pb2, node_manager_pb2, node_manager_pb2_grpc, runtime_environment_pb2

log = logging.getLogger(__name__)

# A spare must not compete with what the users wait for now.
_QUIET_S = 3
# It takes about 1 GiB; a machine that is short of memory has better use for that.
_MEMORY_BYTES = 4 * 1024**3
_KEEP_S = 10 * 365 * 24 * 3600


async def keep_spare() -> None:
    """Asks Ray, from inside a replica that has started, for one spare like it. Without it replicas start as ever."""
    await asyncio.sleep(_QUIET_S)
    if psutil.virtual_memory().available < _MEMORY_BYTES:
        return
    try:
        await asyncio.to_thread(_prestart)
    except Exception:
        log.warning("no spare worker", exc_info=True)


def _prestart() -> None:
    context = ray.get_runtime_context()
    node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    channel = init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")
    request = node_manager_pb2.PrestartWorkersRequest(
        language=common_pb2.Language.PYTHON,
        job_id=bytes.fromhex(context.get_job_id()),
        runtime_env_info=runtime_environment_pb2.RuntimeEnvInfo(
            serialized_runtime_env=context.get_runtime_env_string()
        ),
        keep_alive_duration_secs=_KEEP_S,
        num_workers=1,
    )
    with channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=30)
