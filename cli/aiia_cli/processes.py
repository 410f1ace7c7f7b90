"""Processes by id and start time, so that an id that the system gave to somebody else is never signalled."""

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Iterable

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522

# The kernel counts start times in ticks since boot; adding the boot time can shift them by a moment.
_SAME_START_S = 3.0

_libc = ctypes.CDLL(None, use_errno=True)


def find_process(pid: int, started: float) -> psutil.Process | None:
    """The living process with this id and start time (seconds since the epoch), or None."""
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return process if alive and abs(process.create_time() - started) < _SAME_START_S else None
    except psutil.Error:
        return None


def adopt_orphans() -> None:
    """From now on orphaned descendants become this process's children, so that it can find and end them."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int, death_signal: signal.Signals) -> None:
    """Called in a new child: get this signal when the parent ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def become_user(uid: int, gid: int) -> None:
    """Called in a new child of root: go on as this user, still able to read and traverse root's folders.

    That right (CAP_DAC_READ_SEARCH) spares root's home from being opened to everybody for one server inside it. Where a
    container withholds it, plain permissions apply.
    """
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    mask = 1 << _CAP_DAC_READ_SEARCH
    # Effective, permitted and inheritable; capabilities above 31 are in the second half.
    capabilities = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if _libc.capset(header, capabilities) == 0:
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH, 0, 0)
    else:
        none = (ctypes.c_uint32 * 6)(0, 0, 0, 0, 0, 0)
        _libc.capset(header, none)


async def end(
    processes: Iterable[psutil.Process],
    grace: float,
    hurry: asyncio.Event | None = None,
    number: signal.Signals = signal.SIGTERM,
) -> list[psutil.Process]:
    """Ask each to end, wait up to `grace` seconds for all, then kill. Returns those that had to be killed."""
    living = [process for process in processes if signal_process(process, number)]
    deadline = time.monotonic() + grace
    while living and time.monotonic() < deadline and not (hurry and hurry.is_set()):
        await asyncio.sleep(0.05)
        living = [process for process in living if is_alive(process)]
    for process in living:
        signal_process(process, signal.SIGKILL)
    return living


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs. A zombie does not: it waits for its parent alone."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def signal_process(process: psutil.Process, number: signal.Signals) -> bool:
    """Send a signal. False if the process is gone."""
    try:
        process.send_signal(number)
    except psutil.Error:
        return False
    return True


class Families:
    """Which descendant of this process belongs to which role, also after the role's own process has died.

    A descendant belongs to the role of its parent, else to the role whose session it is in, else to the role it was
    last seen with. Needs `observe` to be called every few seconds to know those who leave both.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, str] = {}
        self._known: dict[psutil.Process, str] = {}

    def add(self, role: str, pid: int) -> None:
        """A role's process has started, as leader of a session of its own."""
        self._sessions[pid] = role

    def observe(self) -> dict[psutil.Process, str]:
        """The role of each living descendant; '' for those of whom nothing is known."""
        descendants = {process.pid: process for process in psutil.Process().children(recursive=True)}
        found: dict[psutil.Process, str] = {}

        def role_of(process: psutil.Process) -> str:
            if process not in found:
                found[process] = self._known.get(process, "")
                try:
                    parent = descendants.get(process.ppid())
                    found[process] = (
                        self._sessions.get(process.pid)
                        or (parent and role_of(parent))
                        or self._sessions.get(os.getsid(process.pid))
                        or found[process]
                    )
                except (psutil.Error, OSError):
                    pass
            return found[process]

        for process in descendants.values():
            role_of(process)
        self._known = found
        return found

    def of(self, role: str) -> list[psutil.Process]:
        """The living processes of one role."""
        return [process for process, owner in self.observe().items() if owner == role]
