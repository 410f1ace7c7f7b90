"""`aiia doctor`: looks at everything an instance consists of, whether it runs or not, and says what it found."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
import psutil

from aiia_cli import probes, record
from aiia_cli.client import Client, Refused, connect
from aiia_cli.datadir import DataDir
from aiia_cli.errors import UserError
from aiia_cli.findings import Facts, Finding, findings
from aiia_cli.ports import LOOPBACK, require_free
from aiia_cli.record import InstanceRecord

_MARKS = {"problem": "✗", "waiting": "◐", "fine": "●"}
#: As much of the end of a log as is looked through, in bytes.
_TAIL = 256 * 1024
_ERROR_LINE = re.compile(r"\b(ERROR|CRITICAL|FATAL|PANIC)\b")
_ERROR_LEVELS = {"error", "critical", "fatal"}
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"
_ANSWER_S = 10.0


def examine(data: DataDir) -> list[Finding]:
    """Everything there is to say, the worst first."""
    return findings(gather(data))


def exit_code(found: Sequence[Finding]) -> int:
    """1 if somebody has to do something."""
    return int(any(finding.level == "problem" for finding in found))


def lines(found: Sequence[Finding]) -> Iterator[str]:
    """The findings as a person reads them."""
    for finding in found:
        yield f"{_MARKS[finding.level]} {finding.about}: {finding.what}"
        if finding.advice:
            yield f"    → {finding.advice}"


def gather(data: DataDir) -> Facts:
    """Look at the instance on this data directory and at the machine."""
    last = record.read(data)
    current = record.running(data)
    running = {}
    if current:
        running = {"running": True, "deaf": _deaf(current), **_ask(connect(data, ""))}
    return Facts(
        data_dir=str(data.path),
        record=current or last,
        errors=_errors(data),
        port_taken="" if current else _port_taken(last),
        disk_free=_disk_free(data),
        memory_available=psutil.virtual_memory().available,
        gpu=_gpu(),
        **running,
    )


def _ask(client: Client) -> dict[str, Any]:
    """What the instance answers about itself."""
    web = urlsplit(client.address)
    readyz = asyncio.run(probes.http_json(web.hostname or LOOPBACK, web.port or 80, "/readyz", _ANSWER_S))
    facts: dict[str, Any] = {"readyz": readyz}
    try:
        facts["models"] = tuple(client.get("/api/models/", _ANSWER_S)["models"])
    except Refused as refused:
        # That the page is away is a finding of its own.
        facts["api_error"] = str(refused) if refused.status else ""
    with suppress(Refused):
        facts["queue"] = client.get("/v1/queue", _ANSWER_S)
    return facts


def _deaf(current: InstanceRecord) -> tuple[str, ...]:
    async def answering(port: int) -> bool:
        return await probes.tcp(LOOPBACK, port)

    ports = {name: role["port"] for name, role in current["roles"].items() if role["state"] == "ready" and role["port"]}
    # The page may listen on another address only, and is asked there.
    ports.pop("web", None)
    return tuple(name for name, port in ports.items() if not asyncio.run(answering(port)))


def _port_taken(last: InstanceRecord | None) -> str:
    where = urlsplit(last["address"]) if last else None
    try:
        require_free((where and where.hostname) or LOOPBACK, (where and where.port) or 8000)
    except UserError as error:
        return str(error)
    return ""


def _errors(data: DataDir) -> dict[str, tuple[int, str]]:
    """For each role how many lines of its current log are errors, and the last of them."""
    found = {}
    for log in sorted(data.logs.glob("*.log")):
        errors = [error for line in _tail(log).splitlines() if (error := _error(line))]
        if errors:
            found[log.stem] = (len(errors), errors[-1])
    return found


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _error(line: str) -> str:
    """What an error's line says, '' for any other line. Logs are JSON lines or plain ones."""
    if line.startswith("{"):
        try:
            entry = json.loads(line)
        except ValueError:
            return ""
        if str(entry.get("level", "")).lower() not in _ERROR_LEVELS:
            return ""
        return str(entry.get("message") or entry.get("event") or line)[:300]
    return line.strip()[:300] if _ERROR_LINE.search(line) else ""


def _disk_free(data: DataDir) -> dict[str, int]:
    """Bytes free for data and for model files, once where both are on one disk."""
    cache = Path(os.environ.get("AIIA_MODEL_CACHE") or platformdirs.user_cache_path("aiia") / "models")
    found: dict[int, tuple[str, int]] = {}
    for folder in (data.path, cache):
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        found.setdefault(place.stat().st_dev, (str(folder), shutil.disk_usage(place).free))
    return dict(found.values())


def _gpu() -> str:
    """What is wrong with the driver of an NVIDIA GPU; '' if nothing is, or if there is no GPU."""
    if not any(_is_nvidia_gpu(device) for device in Path("/sys/bus/pci/devices").glob("*")):
        return ""
    try:
        result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return "An NVIDIA GPU is here, and no driver"
    except (OSError, subprocess.SubprocessError) as error:
        return f"The GPU's driver does not answer: {error}"
    said = (result.stdout + result.stderr).strip().splitlines()
    return (
        "" if result.returncode == 0 else f"The GPU's driver does not work: {said[0] if said else 'nvidia-smi fails'}"
    )


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text()
    except OSError:
        return False
    return vendor == _NVIDIA and kind.startswith(_DISPLAY_CLASS)
