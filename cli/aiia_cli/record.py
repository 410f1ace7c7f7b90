"""`instance.json`: what a running instance says about itself, for `status`, `stop`, `admin` and tests.

It names process ids, ports and the URLs of the databases (with their passwords, hence mode 0600).
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NotRequired, TypedDict

from aiia_cli.datadir import DataDir
from aiia_cli.errors import UserError
from aiia_cli.processes import find_process


class RoleRecord(TypedDict):
    """State: `waiting`, `starting`, `ready`, `failed`, `stopping` or `stopped`; `detail` says why."""

    pid: int | None
    port: int | None
    state: str
    detail: str
    restarts: int


class ModelRecord(TypedDict):
    """A model as `GET /readyz` reports it. `eta_s`: seconds until it is ready, where known."""

    id: str
    state: str
    reason: NotRequired[str | None]
    eta_s: NotRequired[float | None]


class InstanceRecord(TypedDict):
    """The whole file. `processes`: process id and start time (seconds since the epoch) of every process of the run."""

    pid: int
    started: float
    state: str
    error: str
    address: str
    data_dir: str
    database_url: str
    redis_url: str
    roles: dict[str, RoleRecord]
    models: list[ModelRecord]
    processes: list[tuple[int, float]]


def read(data: DataDir) -> InstanceRecord | None:
    """The record of the last run, which may be over, or None."""
    try:
        record: InstanceRecord = json.loads(data.record.read_text())
    except (OSError, ValueError):
        return None
    return record


def public(record: InstanceRecord) -> dict[str, object]:
    """The record without what is secret or of use to us alone."""
    return {key: value for key, value in record.items() if key not in {"database_url", "redis_url", "processes"}}


def write(data: DataDir, record: InstanceRecord) -> None:
    """Replace the record at once, so that a reader never sees half of it. A full disk costs the record, not the run."""
    partial = data.record.with_suffix(".partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(record, file, indent=1)
        partial.replace(data.record)
    except OSError:
        return


def running(data: DataDir) -> InstanceRecord | None:
    """The record of the instance that runs on this data directory, or None."""
    record = read(data)
    return record if record and find_process(record["pid"], record["started"]) else None


class InstanceRunningError(UserError):
    """Another `aiia up` uses this data directory."""


@contextmanager
def locked(data: DataDir) -> Iterator[None]:
    """Hold the data directory for this process. Raises `InstanceRunningError`. The kernel frees it however we end."""
    descriptor = os.open(data.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            record = read(data)
            where = f" at {record['address']} (process {record['pid']})" if record else ""
            raise InstanceRunningError(
                f"aiia is already running on {data.path}{where}.\n"
                "Open that address, stop it with: aiia stop, or start another with: aiia up --data-dir FOLDER --port N"
            ) from None
        yield
    finally:
        os.close(descriptor)
