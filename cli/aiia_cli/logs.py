"""Log files: one per role under `<data-dir>/logs`, the run before kept beside it."""

import time
from collections.abc import Iterator
from pathlib import Path

from aiia_cli.datadir import DataDir
from aiia_cli.errors import UserError

_KEPT = 3
_POLL_S = 0.25


def rotate(data: DataDir) -> None:
    """At a start: `web.log` becomes `web.log.1`, that becomes `web.log.2`, and so on for three runs."""
    for log in data.logs.glob("*.log"):
        for number in range(_KEPT, 0, -1):
            older = log.with_name(f"{log.name}.{number}")
            newer = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
            if newer.exists():
                newer.replace(older)


def available(data: DataDir) -> list[str]:
    """The roles that have a log."""
    return sorted(log.stem for log in data.logs.glob("*.log"))


def tail(data: DataDir, role: str | None, lines: int, *, follow: bool) -> Iterator[str]:
    """The last lines of one role's log, or of all with the role's name before each; then, to `follow`, what comes."""
    names = available(data)
    if role is not None and role not in names:
        known = f"There are: {', '.join(names)}." if names else f"There are none yet in {data.logs}."
        raise UserError(f"No log of '{role}'. {known}")
    logs = {name: data.log(name) for name in ([role] if role else names)}
    width = max(map(len, logs), default=0)
    positions: dict[str, int] = {}

    def labelled(name: str, line: str) -> str:
        return line if role else f"{name:<{width}} | {line}"

    for name, log in logs.items():
        content = log.read_bytes()
        positions[name] = len(content)
        for line in content.decode(errors="replace").splitlines()[-lines:] if lines else []:
            yield labelled(name, line)
    while follow:
        for name, log in logs.items():
            found, positions[name] = _new_lines(log, positions[name])
            for line in found:
                yield labelled(name, line)
        time.sleep(_POLL_S)


def _new_lines(log: Path, position: int) -> tuple[list[str], int]:
    """Whole lines written after a position, and the position after them. A shorter file has been begun anew."""
    try:
        if log.stat().st_size < position:
            position = 0
        with log.open("rb") as file:
            file.seek(position)
            content = file.read()
    except FileNotFoundError:
        return [], 0
    whole = content[: content.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), position + len(whole)
