"""`aiia up`, in the foreground and detached, and `aiia stop`."""

import asyncio
import os
import subprocess
import sys
import time

from aiia_cli import logs, record
from aiia_cli.datadir import DataDir
from aiia_cli.errors import UserError
from aiia_cli.options import Options
from aiia_cli.ports import require_free
from aiia_cli.processes import find_process
from aiia_cli.screen import Screen
from aiia_cli.supervisor import Supervisor, end_leftovers

#: The longest stop: each role's grace period, one after the other.
_STOP_TIMEOUT_S = 90.0


def run(options: Options) -> None:
    """Run an instance until Ctrl-C or SIGTERM. Raises `UserError`."""
    options.data.prepare()
    with record.locked(options.data):
        logs.rotate(options.data)
        screen = Screen()
        try:
            asyncio.run(_supervise(options, screen))
        finally:
            screen.close()


async def _supervise(options: Options, screen: Screen) -> None:
    await Supervisor(options, screen.show).run()


def run_detached(options: Options) -> str:
    """Start an instance that outlives this command, wait for its page, and return its address. Raises `UserError`."""
    options.data.prepare()
    with record.locked(options.data):  # an early word on a second instance or a taken port
        require_free(options.host, options.port)
        options.data.record.unlink(missing_ok=True)
    arguments = ["up", "--data-dir", str(options.data.path), "--host", options.host, "--port", str(options.port)]
    arguments += ["--no-models"] if options.no_models else []
    environment = dict(os.environ)
    if options.openai_base_url:
        environment["OPENAI_BASE_URL"] = options.openai_base_url
    output = options.data.path / "up.log"  # outside logs/, whose files the new process rotates
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "aiia_cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    while process.poll() is None:
        current = record.running(options.data)
        if current and (web := current["roles"].get("web")):
            if web["state"] == "ready":
                return current["address"]
            if web["state"] == "failed" and web["restarts"] >= 2:
                raise UserError(f"The page does not start: {web['detail']}\nSee: aiia logs web. Stop with: aiia stop")
        time.sleep(0.1)
    last = record.read(options.data)
    said = last["error"] if last else output.read_text(errors="replace").strip()
    raise UserError(said or f"aiia ended with exit code {process.returncode}. See {output}")


def stop(data: DataDir) -> bool:
    """Stop the instance, or what a killed one left running. False if there was none. Raises `UserError`."""
    current = record.running(data)
    if current is None:
        last = record.read(data)
        if last is None:
            return False
        with record.locked(data):
            asyncio.run(end_leftovers(last))
            data.record.unlink(missing_ok=True)
        return False
    process = find_process(current["pid"], current["started"])
    if process:
        process.terminate()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while find_process(current["pid"], current["started"]):
            if time.monotonic() > deadline:
                raise UserError(f"aiia (process {current['pid']}) is still stopping. See: aiia status")
            time.sleep(0.05)
    return True
