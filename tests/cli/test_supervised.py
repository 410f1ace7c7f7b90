import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aiia_cli.children import last_line
from aiia_cli.processes import end, find_process, is_alive
from aiia_cli.supervised import next_delay

pytestmark = pytest.mark.unit

# Ends only when killed; says when it has got so far.
STUBBORN = "import signal, sys, time\nsignal.signal(15, signal.SIG_IGN)\nprint(flush=True)\ntime.sleep(600)"


def test_back_off_doubles_to_half_a_minute_and_forgets_after_a_healthy_one() -> None:
    delays = [0.0]
    for _ in range(8):
        delays.append(next_delay(delays[-1], lived=1))
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert next_delay(30, lived=61) == 0.5


def test_last_line_of_this_start_alone(tmp_path: Path) -> None:
    log = tmp_path / "role.log"
    log.write_text("earlier\n")
    assert last_line(log, log.stat().st_size) == ""
    with log.open("a") as file:
        file.write("Traceback\nValueError: no\n\n")
    assert last_line(log, 8) == "ValueError: no"


def test_process_is_known_by_its_start_time_too() -> None:
    me = psutil.Process()
    assert find_process(me.pid, me.create_time()) == me
    assert find_process(me.pid, me.create_time() - 100) is None


def test_stubborn_process_is_killed_after_its_grace() -> None:
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        process = psutil.Process(child.pid)
        started = time.monotonic()
        assert asyncio.run(end([process], grace=0.3)) == [process]
        assert time.monotonic() - started >= 0.3
        child.wait(10)
        assert not is_alive(process)
    finally:
        if child.poll() is None:
            os.kill(child.pid, 9)
        child.communicate()
