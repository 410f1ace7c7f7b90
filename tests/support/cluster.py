"""A Ray head and a manager as real processes, for a gateway at an address of the test's choice."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from aiia_serving.engines.environment import RaySettings
from aiia_serving.settings import model_cache
from tests.fakes import ROOT
from tests.fakes.control import INTERNAL_TOKEN
from tests.fakes.gateway import free_port
from tests.support.manager import ManagerProcess


class Cluster:
    """Both work in `folder`; `script` is run as the manager in the place of ours."""

    def __init__(self, folder: Path, script: Path | None = None, gateway_url: str = "") -> None:
        self.settings = RaySettings(folder, model_cache(), free_port(), free_port(), folder / "ray-token")
        self._environment = {
            "AIIA_DATA_DIR": str(folder),
            "AIIA_MODEL_CACHE": str(model_cache()),
            "AIIA_RAY_PORT": str(self.settings.ray_port),
            "AIIA_SERVE_PORT": str(self.settings.serve_port),
            "AIIA_RAY_TOKEN_FILE": str(self.settings.token_file),
            "AIIA_GATEWAY_URL": gateway_url,
            "AIIA_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "PYTHONPATH": f"{ROOT / 'serving'}:{ROOT}",
        }
        self.manager = ManagerProcess(folder, script, **self._environment)
        self._head: subprocess.Popen[bytes] | None = None

    def start_head(self, gateway_url: str) -> None:
        command = [sys.executable, "-m", "aiia_serving", "models"]
        environment = {**os.environ, **self._environment, "AIIA_GATEWAY_URL": gateway_url}
        self._head = subprocess.Popen(command, env=environment, cwd=ROOT)

    def wait_replicas(self, model: str, replicas: int, timeout: float = 120) -> dict[str, Any]:
        """The model's state as soon as it has so many."""
        found: dict[str, Any] = self.manager.wait(lambda models: models[model]["replicas"] == replicas, timeout)[model]
        return found

    def stop(self) -> None:
        self.manager.stop()
        if self._head is not None:
            below = psutil.Process(self._head.pid).children(recursive=True)
            self._head.terminate()
            self._head.wait(30)
            psutil.wait_procs(below, timeout=10)
