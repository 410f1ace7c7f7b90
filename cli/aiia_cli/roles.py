"""The roles of one machine: how each is started, known to be ready, and stopped."""

import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiia_cli import probes
from aiia_cli.children import Command
from aiia_cli.datadir import DataDir
from aiia_cli.environment import Ports
from aiia_cli.options import Options
from aiia_cli.ports import LOOPBACK
from aiia_cli.servers import Postgres, Redis


@dataclass(frozen=True)
class Role:
    """`ready`: asked several times a second until it says yes. `grace`: seconds from the stop signal to SIGKILL."""

    name: str
    command: Command
    port: int | None
    ready: Callable[[], Awaitable[bool]]
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 5.0
    #: Roles that have to be ready, or to have failed, before this one starts; the page comes before the models.
    after: tuple[str, ...] = ()


def postgres(server: Postgres) -> Role:
    async def ready() -> bool:
        return server.is_ready()

    # SIGINT is its fast shutdown: sessions are cut, data is written.
    return Role("postgres", server.command, server.port, ready, signal.SIGINT, grace=30)


def redis(server: Redis) -> Role:
    return Role("redis", server.command, server.port, lambda: probes.redis(LOOPBACK, server.port))


def web(options: Options, environment: Mapping[str, str]) -> Role:
    return Role(
        "web",
        python_command("web", options.data, environment, "aiia_web"),
        options.port,
        lambda: probes.http_ok(options.local_host, options.port, "/healthz"),
    )


def worker(options: Options, environment: Mapping[str, str], ready: Callable[[], Awaitable[bool]]) -> Role:
    """It listens nowhere, so the caller, who knows what `/readyz` says, tells when it is ready."""
    command = python_command("worker", options.data, environment, "aiia_platform", "worker")
    return Role("worker", command, None, ready, after=("postgres", "web"))


def manager(options: Options, environment: Mapping[str, str], ports: Ports) -> Role:
    return Role(
        "manager",
        python_command("manager", options.data, environment, "aiia_serving", "manager"),
        ports.manager,
        lambda: probes.http_ok(LOOPBACK, ports.manager, "/healthz"),
        after=("web",),
    )


def models(options: Options, environment: Mapping[str, str], ports: Ports) -> Role:
    return Role(
        "models",
        python_command("models", options.data, environment, "aiia_serving", "models"),
        ports.serve,
        lambda: probes.tcp(LOOPBACK, ports.ray),
        grace=15,
        after=("manager",),
    )


def python_command(log: str, data: DataDir, environment: Mapping[str, str], module: str, *arguments: str) -> Command:
    """`python -m module arguments` in the Python that runs us; -P keeps the current folder from shadowing packages."""
    return Command([sys.executable, "-P", "-m", module, *arguments], environment, data.path, data.log(log))
