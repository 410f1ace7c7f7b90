"""Migrations of the database, run only where something changed, as starting Django takes a second or two."""

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from aiia_cli.children import Children
from aiia_cli.datadir import DataDir
from aiia_cli.roles import python_command

_OURS = ("aiia_platform", "aiia_web")
_WITH_MIGRATIONS = ("Django", "django-allauth", "procrastinate")


def fingerprint() -> str:
    """A hash of every migration there is: our files, and the versions of the packages that bring more."""
    digest = hashlib.sha256()
    for package in _OURS:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for file in sorted(Path(folder).glob("**/migrations/*.py")):
                digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    for distribution in _WITH_MIGRATIONS:
        digest.update(importlib.metadata.version(distribution).encode() + b"\0")
    return digest.hexdigest()


def _stamp(data: DataDir) -> Path:
    # Inside the database's own folder, so that it goes where the database goes.
    return data.postgres / "aiia-migrations"


def are_applied(data: DataDir) -> bool:
    """Whether the embedded database has all of them."""
    stamp = _stamp(data)
    return stamp.exists() and stamp.read_text() == fingerprint()


async def apply(children: Children, data: DataDir, environment: Mapping[str, str], *, embedded: bool) -> None:
    """Run `migrate` against a running database. Raises `UserError`."""
    applying = fingerprint()
    await children.run(python_command("migrate", data, environment, "aiia_platform", "migrate", "--noinput"))
    if embedded:
        _stamp(data).write_text(applying)
