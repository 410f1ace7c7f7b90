"""Commands on an instance's database that work whether it runs or not."""

import asyncio
import os
import subprocess
from collections.abc import Sequence

from aiia_cli import migrations, record
from aiia_cli.children import Child, Children
from aiia_cli.datadir import DataDir
from aiia_cli.environment import platform_environment
from aiia_cli.errors import UserError
from aiia_cli.ports import free_ports
from aiia_cli.processes import adopt_orphans
from aiia_cli.roles import postgres as postgres_role
from aiia_cli.roles import python_command
from aiia_cli.servers import Postgres


def run_platform_command(data: DataDir, arguments: Sequence[str], stdin: str = "") -> str:
    """Run `python -m aiia_platform …` on the instance's database; its standard output. Raises `UserError`.

    The embedded database is started for the moment if the instance does not run.
    """
    current = record.running(data)
    if current and current["database_url"]:
        return _run(data, arguments, stdin, current["database_url"], current["redis_url"])
    data.prepare()
    with record.locked(data):
        return asyncio.run(_with_database(data, arguments, stdin))


async def _with_database(data: DataDir, arguments: Sequence[str], stdin: str) -> str:
    adopt_orphans()
    children = Children()
    if url := os.environ.get("DATABASE_URL"):
        await migrations.apply(children, data, platform_environment(data, url, ""), embedded=False)
        return _run(data, arguments, stdin, url, "")
    server = Postgres(data, free_ports(1)[0])
    await server.prepare(children)
    child = children.start(server.command)
    try:
        await _until_ready(server, child)
        environment = platform_environment(data, server.url, "")
        if not migrations.are_applied(data):
            await migrations.apply(children, data, environment, embedded=True)
        return _run(data, arguments, stdin, server.url, "")
    finally:
        child.send(postgres_role(server).stop_signal)
        await asyncio.wait({child.ended})


async def _until_ready(server: Postgres, child: Child) -> None:
    while not server.is_ready():
        if child.ended.done():
            raise UserError(f"The database does not start: {child.why_ended()}")
        await asyncio.sleep(0.05)


def _run(data: DataDir, arguments: Sequence[str], stdin: str, database_url: str, redis_url: str) -> str:
    environment = platform_environment(data, database_url, redis_url)
    command = python_command("admin", data, environment, "aiia_platform", *arguments)
    result = subprocess.run(
        command.argv, env=command.env, cwd=command.cwd, input=stdin, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        # Django's commands end with `CommandError: …` as the last line.
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise UserError(lines[-1].removeprefix("CommandError: ") if lines else f"exit code {result.returncode}")
    return result.stdout
