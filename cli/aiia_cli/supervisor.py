"""`aiia up`: brings the roles up in order, keeps them up, and takes them down in order."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import psutil

from aiia_cli import migrations, probes, record, roles
from aiia_cli.children import Children
from aiia_cli.environment import Ports, role_environment, serving_environment
from aiia_cli.errors import UserError
from aiia_cli.options import Options
from aiia_cli.ports import free_ports, require_free
from aiia_cli.processes import Families, adopt_orphans, end, find_process
from aiia_cli.record import InstanceRecord, ModelRecord
from aiia_cli.servers import Postgres, Redis
from aiia_cli.supervised import Supervised

#: The order in which roles stop: nothing new comes in, running work is laid down, the databases are last.
_STOP_ORDER = ("web", "worker", "manager", "models", "redis", "postgres")
#: How long a role waits for those it comes after; a broken page must not keep the models from starting.
_PATIENCE_S = 20.0
_OBSERVE_EVERY_S = 1.0
_READYZ_EVERY_S = 5.0
_READYZ_MEANWHILE_S = 1.0


class Supervisor:
    """Runs one instance. `changed` is called with its record whenever that changes."""

    def __init__(self, options: Options, changed: Callable[[InstanceRecord], None]) -> None:
        self._options = options
        self._changed = changed
        self._children = Children()
        self._families = Families()
        self._supervised: dict[str, Supervised] = {}
        self._models: list[ModelRecord] = []
        self._worker_ready = False
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        me = psutil.Process()
        self._record: InstanceRecord = {
            "pid": me.pid,
            "started": me.create_time(),
            "state": "starting",
            "error": "",
            "address": options.address,
            "data_dir": str(options.data.path),
            "database_url": "",
            "redis_url": "",
            "roles": {},
            "models": [],
            "processes": [],
        }

    async def run(self) -> None:
        """Until SIGINT or SIGTERM. Raises `UserError` if it cannot start; nothing is left running then."""
        data = self._options.data
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)
        adopt_orphans()
        await end_leftovers(record.read(data))
        require_free(self._options.host, self._options.port)
        tasks = [asyncio.create_task(part) for part in (self._bring_up(), self._observe(), self._ask_readyz())]
        asked = asyncio.create_task(self._stop.wait())
        try:
            # `_bring_up` comes to an end, the others do not; any may fail.
            pending: set[asyncio.Task[Any]] = {*tasks, asked}
            while not asked.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        except UserError as error:
            self._record["error"] = str(error)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._take_down()
            self._report("failed" if self._record["error"] else "stopped")
            if not self._record["error"]:
                data.record.unlink(missing_ok=True)

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _bring_up(self) -> None:
        options, data = self._options, self._options.data
        ports = Ports(*free_ports(5))
        postgres = redis = None
        database_url = os.environ.get("DATABASE_URL", "")
        if not database_url:
            postgres = Postgres(data, ports.postgres)
            database_url = postgres.url
        redis_url = os.environ.get("REDIS_URL", "")
        if not redis_url:
            redis = Redis(data, ports.redis)
            redis_url = redis.url
        self._record["database_url"], self._record["redis_url"] = database_url, redis_url
        environment = role_environment(options, ports, database_url, redis_url)
        serving = serving_environment(environment)
        wanted = [
            *([roles.postgres(postgres)] if postgres else []),
            *([roles.redis(redis)] if redis else []),
            roles.web(options, environment),
            roles.worker(options, environment, self._is_worker_ready),
            roles.manager(options, serving, ports),
            *([] if options.no_models else [roles.models(options, serving, ports)]),
        ]
        for role in wanted:
            self._supervised[role.name] = Supervised(role, self._children, self._families, self._report)
        self._report()

        if redis:
            self._supervised["redis"].start()
        if postgres:
            await postgres.prepare(self._children)
            self._supervised["postgres"].start()
        if not (postgres and migrations.are_applied(data)):
            if postgres:
                await self._until_settled("postgres")
            await migrations.apply(self._children, data, environment, embedded=postgres is not None)
        for role in wanted:
            if role.name not in {"postgres", "redis"}:
                for earlier in role.after:
                    await self._until_settled(earlier)
                self._supervised[role.name].start()

    async def _is_worker_ready(self) -> bool:
        return self._worker_ready

    async def _until_settled(self, name: str) -> None:
        if name in self._supervised:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._supervised[name].settled.wait(), _PATIENCE_S)

    async def _observe(self) -> None:
        """Know every process of the run, and write them down for a start after we ourselves were killed."""
        while True:
            processes = [(process.pid, process.create_time()) for process in self._families.observe()]
            if processes != self._record["processes"]:
                self._record["processes"] = processes
                self._report()
            await asyncio.sleep(_OBSERVE_EVERY_S)

    async def _ask_readyz(self) -> None:
        """Learn from the web role what no probe of a single process tells: how the worker and the models are."""
        host, port = self._options.local_host, self._options.port
        while True:
            if (web := self._supervised.get("web")) and web.state == "ready":
                self._learn(await probes.http_json(host, port, "/readyz", patience=10))
            await asyncio.sleep(_READYZ_EVERY_S if self._is_all_ready() else _READYZ_MEANWHILE_S)

    def _learn(self, readyz: dict[str, Any] | None) -> None:
        if readyz is None:
            return
        worker = readyz.get("dependencies", {}).get("worker", {})
        self._worker_ready = bool(worker.get("ok")) and self._supervised["worker"].state in {"starting", "ready"}
        if (models := readyz.get("models", [])) != self._models:
            self._models = models
            self._report()

    def _is_all_ready(self) -> bool:
        states = [supervised.state for supervised in self._supervised.values()]
        return bool(states) and all(state == "ready" for state in [*states, *(m["state"] for m in self._models)])

    async def _take_down(self) -> None:
        self._report("stopping")
        for name in _STOP_ORDER:
            if name in self._supervised:
                await self._supervised[name].stop(self._hurry)
        await end(self._families.observe(), 1, self._hurry)

    def _report(self, state: str = "") -> None:
        if (worker := self._supervised.get("worker")) and worker.state == "failed":
            self._worker_ready = False  # what /readyz said was of the process before
        if not state and self._record["state"] in {"starting", "ready"}:
            state = "ready" if self._is_all_ready() else "starting"
        self._record["state"] = state or self._record["state"]
        self._record["roles"] = {name: supervised.record() for name, supervised in self._supervised.items()}
        self._record["models"] = self._models
        record.write(self._options.data, self._record)
        self._changed(self._record)


async def end_leftovers(last: InstanceRecord | None) -> None:
    """End what an instance that was itself killed left running. Called under the instance's lock."""
    if last:
        found = [find_process(pid, started) for pid, started in last["processes"]]
        # They notice that their parent is gone and are ending already; Postgres may be writing its data.
        await end([process for process in found if process], grace=10)
