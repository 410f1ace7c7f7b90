"""The source checkout that this command was installed from by `./aiia`."""

import os
from pathlib import Path

from aiia_cli.errors import UserError


def checkout() -> Path:
    """Its root. Raises `UserError` where aiia was installed without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        raise UserError("This works in a checkout of aiia only: git clone it, and use ./aiia there.")
    return root


def set_up() -> None:
    """Become `./aiia setup`."""
    program = checkout() / "aiia"
    os.execv(program, [str(program), "setup"])  # noqa: S606  # no shell is wanted
