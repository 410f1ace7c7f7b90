"""The environment of each role: the one place where `aiia up` turns its options into configuration.

docs/developers/architecture.md says who reads what.
"""

import itertools
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from aiia_cli.credentials import secret
from aiia_cli.datadir import DataDir
from aiia_cli.options import Options
from aiia_cli.ports import LOOPBACK


@dataclass(frozen=True)
class Ports:
    """Loopback ports of the internal roles."""

    postgres: int
    redis: int
    manager: int
    ray: int
    serve: int


def platform_environment(data: DataDir, database_url: str, redis_url: str) -> dict[str, str]:
    """What any of the platform's commands needs, on top of our own environment."""
    # Our own secrets go by file, so that they show neither in process lists nor in a dump of the environment.
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "AIIA_DATA_DIR": str(data.path),
        "AIIA_SECRET_KEY_FILE": str(secret(data.secrets, "secret-key")),
        "AIIA_INTERNAL_TOKEN_FILE": str(secret(data.secrets, "internal-token")),
    }


def role_environment(options: Options, ports: Ports, database_url: str, redis_url: str) -> dict[str, str]:
    """What web and worker get; see `serving_environment` for the others."""
    environment = platform_environment(options.data, database_url, redis_url) | {
        "AIIA_HOST": options.host,
        "AIIA_PORT": str(options.port),
        "AIIA_ALLOWED_HOSTS": ",".join(_allowed_hosts(options, os.environ)),
        "AIIA_GATEWAY_URL": f"{options.address}/v1",
        "AIIA_GATEWAY_APP": "aiia_serving.gateway.app:app",
        "AIIA_PLATFORM_URL": options.address,
        "AIIA_MANAGER_URL": f"http://{LOOPBACK}:{ports.manager}",
        "AIIA_MANAGER_PORT": str(ports.manager),
        "AIIA_MODELS_DIR": os.pathsep.join(map(str, model_folders(options.data))),
        "AIIA_RAY_PORT": str(ports.ray),
        "AIIA_SERVE_PORT": str(ports.serve),
        "AIIA_RAY_TOKEN_FILE": str(secret(options.data.secrets, "ray-token")),
        "AIIA_NO_MODELS": "1" if options.no_models else "",
    }
    if options.openai_base_url:
        environment["OPENAI_BASE_URL"] = options.openai_base_url
    return environment


def serving_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What manager and models get. The code of models is often not ours, so the way to the data is left out."""
    data = {"DATABASE_URL", "REDIS_URL", "AIIA_SECRET_KEY", "AIIA_SECRET_KEY_FILE"}
    return {name: value for name, value in environment.items() if name not in data}


def model_folders(data: DataDir) -> list[Path]:
    """Folders of Model documents: the packaged ones first, then the owner's."""
    packaged = Path(__file__).parents[2] / "models"
    return [packaged, data.models] if packaged.is_dir() else [data.models]


def _allowed_hosts(options: Options, environ: Mapping[str, str]) -> list[str]:
    """Names under which a browser may ask for us: when we listen on all addresses, each of this machine's."""
    hosts = [host for host in environ.get("AIIA_ALLOWED_HOSTS", "").split(",") if host]
    if options.local_host != options.host:
        hosts.append(socket.gethostname())
        for found in itertools.chain.from_iterable(psutil.net_if_addrs().values()):
            if found.family == socket.AF_INET:
                hosts.append(found.address)
            elif found.family == socket.AF_INET6:
                hosts.append(f"[{found.address.partition('%')[0]}]")
    return list(dict.fromkeys(hosts))
