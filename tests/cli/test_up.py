"""`aiia up` with real processes, without models."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from aiia_cli import record
from tests.support.instance import Instance, command, instance_environment

pytestmark = pytest.mark.integration

ROLES = ("postgres", "redis", "web", "worker", "manager")


def run_aiia(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=instance_environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=30)[1]


def test_starts_stops_and_keeps_data(tmp_path: Path) -> None:
    first = Instance(tmp_path, no_models=True)
    with first:
        first.wait_ready(*ROLES)
        assert first.get("/healthz") == b"ok\n"
        arguments = ("--data-dir", str(tmp_path), "--email", "ada@example.com")
        made = run_aiia(
            "admin", "create-user", *arguments, "--password-stdin", "--admin", stdin="correct horse battery\n"
        )
        assert made.returncode == 0, made.stderr
        token = run_aiia("admin", "create-token", *arguments, "--name", "script")
        assert token.returncode == 0, token.stderr
        assert token.stdout.startswith("sk-")
        assert len(token.stdout.splitlines()) == 1

        assert first.stop() == 0
    assert record.running(first.data) is None

    # The user is there after a restart, and for a command while nothing runs.
    again = run_aiia("admin", "create-user", *arguments, "--password-stdin", stdin="correct horse battery\n")
    assert again.returncode == 1
    assert "ada@example.com" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with Instance(tmp_path_factory.mktemp("instance"), no_models=True) as running:
        running.wait_ready(*ROLES)
        yield running


@pytest.mark.parametrize("role", ROLES)
def test_killed_role_is_started_again_and_the_crash_is_shown(instance: Instance, role: str) -> None:
    # What was killed before may have taken others with it.
    instance.wait_ready(*ROLES)
    before = instance.restarts(role)
    killed = instance.kill(role)
    instance.wait_restarted(role, killed)
    assert instance.restarts(role) == before + 1
    assert f"{role}: failed (killed by SIGKILL" in instance.output.read_text()


def test_second_instance_on_the_same_data_is_refused(instance: Instance) -> None:
    second = run_aiia("up", "--data-dir", str(instance.data.path), "--port", "1")
    assert second.returncode == 1
    assert f"already running on {instance.data.path} at {instance.address}" in second.stderr
    assert "Traceback" not in second.stderr


def test_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run_aiia("up", "--data-dir", str(tmp_path), "--port", str(port))
    assert result.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken" in result.stderr
    assert f"aiia up --port {port + 1}" in result.stderr


def test_status_and_logs(instance: Instance) -> None:
    status = run_aiia("status", "--data-dir", str(instance.data.path), "--json")
    assert status.returncode == 0
    assert '"state": "ready"' in status.stdout
    assert "postgresql://" not in status.stdout
    logs = run_aiia("logs", "--data-dir", str(instance.data.path), "web", "-n", "1")
    assert len(logs.stdout.splitlines()) == 1


def test_secrets_show_neither_on_command_lines_nor_in_logs(instance: Instance) -> None:
    secrets = [file.read_text() for file in instance.data.secrets.iterdir()]
    assert len(secrets) >= 5
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in instance.data.secrets.iterdir())
    assert instance.data.record.stat().st_mode & 0o777 == 0o600
    shown = [" ".join(process.cmdline()) for process in instance.processes() if process.is_running()]
    shown += [log.read_text(errors="replace") for log in [*instance.data.logs.iterdir(), instance.output]]
    assert not [text for text in shown for secret in secrets if secret in text]


def test_survives_its_own_kill(tmp_path: Path) -> None:
    """`aiia up` killed: its roles end by themselves, and the next start recovers."""
    with Instance(tmp_path, no_models=True) as first:
        first.wait_ready("postgres", "web")
        assert first.process is not None
        first.process.kill()
        assert gone(first.processes())
    with Instance(tmp_path, no_models=True) as second:
        second.wait_ready("postgres", "web")


def test_ctrl_c_ten_times_at_any_moment(tmp_path: Path) -> None:
    """No process is left (`stop` checks it), and no data is lost."""
    arguments = ("--data-dir", str(tmp_path), "--email", "ada@example.com", "--password-stdin")
    assert run_aiia("admin", "create-user", *arguments, stdin="correct horse battery\n").returncode == 0
    for number in range(10):
        instance = Instance(tmp_path, no_models=True)
        instance.start()
        moment = ROLES[number % len(ROLES)]
        instance.wait_until(partial(has_begun, instance, moment), f"{moment} started")
        assert instance.stop(signal.SIGINT) == 0
    again = run_aiia("admin", "create-user", *arguments, stdin="correct horse battery\n")
    assert "ada@example.com exists" in again.stderr


def has_begun(instance: Instance, role: str) -> bool:
    return instance.state(role) in {"starting", "ready"}


def test_everything_killed_at_once_recovers(tmp_path: Path) -> None:
    """As after a power cut: stale pid file, no clean shutdown."""
    with Instance(tmp_path, no_models=True) as first:
        first.wait_ready("postgres", "web")
        for process in first.processes():
            with suppress(psutil.NoSuchProcess):  # its parent's end was enough
                process.kill()
        assert gone(first.processes())
        assert (first.data.postgres / "postmaster.pid").exists()
    with Instance(tmp_path, no_models=True) as second:
        second.wait_ready("postgres", "web")


def test_detached(tmp_path: Path) -> None:
    instance = Instance(tmp_path, no_models=True)
    arguments = [*instance.arguments, "--detach"]
    started = run_aiia("up", *arguments)
    try:
        assert started.returncode == 0, started.stderr
        assert started.stdout == f"aiia is at {instance.address}\n"
        assert instance.get("/healthz") == b"ok\n"
        processes = [psutil.Process(pid) for pid, _ in instance.record["processes"]]
        assert run_aiia("up", *arguments).returncode == 1
    finally:
        stopped = run_aiia("stop", "--data-dir", str(tmp_path))
    assert stopped.stdout == "aiia has stopped.\n"
    assert gone(processes)
    assert run_aiia("status", "--data-dir", str(tmp_path)).returncode == 3
