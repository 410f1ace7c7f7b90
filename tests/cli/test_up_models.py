"""`aiia up` with the packaged model: Ray and vLLM leave nothing behind, however they end."""

import signal
from pathlib import Path

import psutil
import pytest

from tests.support.instance import Instance

pytestmark = [pytest.mark.serving, pytest.mark.timeout(600)]

MODEL = "smollm2-135m"


def test_ctrl_c_while_the_model_loads(tmp_path: Path) -> None:
    with Instance(tmp_path) as instance:
        instance.wait_until(lambda: instance.model_state(MODEL) == "starting", "model starting", timeout=180)
        assert instance.stop(signal.SIGINT) == 0  # which fails if a process is left


def test_killed_models_role_comes_back_without_orphans(tmp_path: Path) -> None:
    with Instance(tmp_path) as instance:
        instance.wait_ready(models=(MODEL,), timeout=240)
        role = psutil.Process(instance.pid("models"))
        family = [role, *role.children(recursive=True)]
        assert len(family) > 3
        instance.wait_restarted("models", instance.kill("models"), timeout=120)
        assert not psutil.wait_procs(family, timeout=20)[1]
        instance.wait_ready(models=(MODEL,), timeout=240)
