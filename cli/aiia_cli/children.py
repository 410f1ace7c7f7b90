"""Starting child processes from an event loop, and learning how they ended."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiia_cli.errors import UserError
from aiia_cli.processes import become_user, die_with_parent


@dataclass(frozen=True)
class Command:
    """A program to run. `user`: (uid, gid) to run it as, for root only. `stdin`: what it reads from standard input."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    user: tuple[int, int] | None = None
    stdin: str = ""
    #: What it gets when this process ends without having stopped it.
    death_signal: signal.Signals = signal.SIGTERM


class Child:
    """A running child. `ended` resolves to its exit code, negative for the signal that killed it."""

    def __init__(self, pid: int, log: Path, log_start: int) -> None:
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._log = log
        self._log_start = log_start

    def send(self, number: signal.Signals) -> None:
        if not self.ended.done():
            os.kill(self.pid, number)

    def why_ended(self) -> str:
        """Exit code or signal, and the last line it logged."""
        code = self.ended.result()
        how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        line = last_line(self._log, self._log_start)
        return f"{how}: {line}" if line else how


class Children:
    """All children of this process. There is one instance, on the main thread, as it waits for every child."""

    def __init__(self) -> None:
        self._running: dict[int, Child] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(self, command: Command) -> Child:
        """Start it in a session of its own, output appended to its log. Raises `UserError` if that is impossible."""
        parent = os.getpid()

        def prepare() -> None:
            if command.user:
                become_user(*command.user)
            die_with_parent(parent, command.death_signal)  # after the change of user, which would clear it

        try:
            with command.log.open("ab") as log:
                log_start = log.tell()
                process = subprocess.Popen(
                    command.argv,
                    env=command.env,
                    cwd=command.cwd,
                    stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=prepare,  # safe, as this process has one thread
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"{command.argv[0]} cannot be started: {error}") from None
        if process.stdin:
            try:
                process.stdin.write(command.stdin.encode())  # a few lines: less than a pipe holds
                process.stdin.close()
            except BrokenPipeError:
                pass  # it ended at once; the reason is in its log
        process.returncode = 0  # `_reap` waits for it, not the Popen object
        child = Child(process.pid, command.log, log_start)
        self._running[process.pid] = child
        return child

    async def run(self, command: Command) -> None:
        """Run it to its end. Raises `UserError` if it fails. Killed if this call is cancelled."""
        child = self.start(command)
        try:
            code = await asyncio.shield(child.ended)
        except asyncio.CancelledError:
            child.send(signal.SIGKILL)
            raise
        if code != 0:
            name = Path(command.argv[0]).name if command.argv[1:2] != ["-P"] else " ".join(command.argv[3:5])
            raise UserError(f"{name} failed ({child.why_ended()}). Its whole output: {command.log}")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._running.pop(pid, None)  # None: an orphan that this process had adopted
            if child:
                child.ended.set_result(os.waitstatus_to_exitcode(status))


def last_line(log: Path, start: int = 0) -> str:
    """The last line with something in it that was logged after this many bytes, or ''."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
