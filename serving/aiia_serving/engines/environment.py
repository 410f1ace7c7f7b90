"""The environment that Ray, Serve and the engines read their settings from, for the head and for the manager."""

import hashlib
import os
import socket
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from aiia_serving.settings import model_cache

# A stream that outlives a reload of HAProxy by more than this is cut; no answer takes a day.
_LONGEST_STREAM_S = 24 * 3600
_REPLICA_PORTS = 100
# What goes wrong in the engine's core is written out in full: texts of conversations are token ids there.
_VLLM_LOGGING = Path(__file__).with_name("vllm_logging.json")


@dataclass(frozen=True)
class RaySettings:
    """How to reach, or to start, the Ray head of this machine. Everything listens on loopback."""

    data_dir: Path
    model_cache: Path
    ray_port: int
    serve_port: int
    token_file: Path

    @classmethod
    def from_environment(cls) -> "RaySettings":
        data_dir = Path(os.environ.get("AIIA_DATA_DIR") or user_data_path("aiia"))
        return cls(
            data_dir=data_dir,
            model_cache=model_cache(),
            ray_port=int(os.environ.get("AIIA_RAY_PORT", "6379")),
            serve_port=int(os.environ.get("AIIA_SERVE_PORT", "8100")),
            token_file=Path(os.environ.get("AIIA_RAY_TOKEN_FILE") or data_dir / "ray-token"),
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ray_port}"

    @property
    def run_dir(self) -> Path:
        """Ray's directory of sockets and logs: short, because a socket's path may have 107 characters."""
        mark = hashlib.sha256(str(self.data_dir.resolve()).encode()).hexdigest()[:8]
        base = tempfile.gettempdir()
        return Path(base if len(base) <= 20 else "/tmp") / f"aiia-{os.getuid()}-{mark}"  # noqa: S108


def ray_environment(settings: RaySettings) -> dict[str, str]:
    """The variables; to be set before Ray is imported."""
    run_dir = settings.run_dir
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Without it Ray replaces 127.0.0.1 by the machine's address and listens for everyone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # By default its workers, engines among them, get a processor when nobody else wants it.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_LONGEST_STREAM_S),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(run_dir / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_dir / "ha" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run_dir / "ha" / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_dir / "ha"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_dir / "ha" / "server-state"),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # Every worker process closes what Ray would open to the network.
        "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": "aiia_serving.engines.hook.setup",
        # Sockets of engines; in the default place they are left behind by an engine that is killed.
        "VLLM_RPC_BASE_PATH": str(run_dir / "vllm"),
        # Prompts are private.
        "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
        "VLLM_LOGGING_CONFIG_PATH": str(_VLLM_LOGGING),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Replicas find this package wherever it was started from.
        "PYTHONPATH": os.pathsep.join(path for path in (_package_root(), os.environ.get("PYTHONPATH", "")) if path),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    }


def port_environment() -> dict[str, str]:
    """Free ports for what would otherwise meet a second instance on Ray's fixed ones. For the head alone."""
    metrics, stats, fallback, fallback_grpc = _free_ports(4)
    first_replica = _free_range(_REPLICA_PORTS)
    return {
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_replica),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_replica + _REPLICA_PORTS),
    }


def write_haproxy_wrapper(settings: RaySettings, haproxy: str) -> None:
    """Puts the program in place that Serve starts as its HAProxy: see ``aiia_serving.engines.haproxy``."""
    wrapper = Path(ray_environment(settings)["RAY_SERVE_HAPROXY_BINARY_PATH"])
    script = Path(__file__).with_name("haproxy.py")
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{script}" "{haproxy}" "$@"\n')
    wrapper.chmod(stat.S_IRWXU)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _free_range(length: int) -> int:
    """The first of ``length`` ports that are likely free: below those that the system gives out by itself."""
    for first in range(20_000, 32_000, length):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", first))
            except OSError:
                continue
            return first
    return 20_000


def _package_root() -> str:
    return str(Path(__file__).resolve().parents[2])
