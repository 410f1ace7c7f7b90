"""The manager as a real process."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.fakes import ROOT
from tests.fakes.control import INTERNAL_TOKEN
from tests.fakes.gateway import free_port


class ManagerProcess:
    """With a folder of packaged documents and one of the owner's below `folder`, and a port of its own."""

    def __init__(self, folder: Path, script: Path | None = None, **environment: str) -> None:
        self.packaged = folder / "packaged"
        self.documents = folder / "models"
        self.packaged.mkdir(exist_ok=True)
        self.documents.mkdir(exist_ok=True)
        self.port = free_port()
        self._command = [sys.executable, str(script)] if script else [sys.executable, "-m", "aiia_serving", "manager"]
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'serving'}:{ROOT}",
            "AIIA_DATA_DIR": str(folder),
            "AIIA_MODEL_CACHE": str(folder / "cache"),
            "AIIA_MODELS_DIR": f"{self.packaged}:{self.documents}",
            "AIIA_MANAGER_PORT": str(self.port),
            "AIIA_RAY_PORT": str(free_port()),
            "AIIA_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "AIIA_PROBE_EVERY_S": "0.5",
            **environment,
        }
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        self.process = subprocess.Popen(self._command, env=self._environment, cwd=ROOT)
        while True:
            try:
                httpx.get(f"{self.url}/healthz", timeout=30)
            except httpx.ConnectError:
                assert self.process.poll() is None
                time.sleep(0.05)  # Its port is not open yet.
            else:
                return

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}"}
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=30, **options)

    def wait(self, wanted: Callable[[dict[str, Any]], Any], timeout: float = 30) -> dict[str, Any]:
        """The first report, by model, that is as `wanted`."""
        deadline, version, models = time.monotonic() + timeout, "", {}
        while time.monotonic() < deadline:
            report = self.request("GET", "/state", params={"after": version, "wait": "2"}).json()
            version = report["version"]
            models = {model["id"]: model for model in report["models"]}
            if wanted(models):
                return models
        raise AssertionError(f"not reached within {timeout} s; last: {models}")

    def wait_state(self, model: str, state: str, timeout: float = 30) -> dict[str, Any]:
        """That model as soon as it is in `state`."""
        found: dict[str, Any] = self.wait(lambda models: models.get(model, {}).get("state") == state, timeout)[model]
        return found
