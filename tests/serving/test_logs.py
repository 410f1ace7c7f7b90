"""The logs of Ray, Serve and vLLM are JSON like ours, and exceptions are told without what was asked."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiia_serving import engines
from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines import head
from aiia_serving.engines.environment import RaySettings, ray_environment
from tests.fakes import ROOT

pytestmark = pytest.mark.unit

SECRET = "xyzzy-plugh"
# As vLLM does: it reads the file, puts its process's name before what is printed, and then logs.
FAILING = f"""
import json, logging, logging.config, sys
with open(sys.argv[1]) as file:
    logging.config.dictConfig(json.load(file))
sys.stdout.write = sys.stderr.write = lambda text: None
for name in ("vllm.entrypoints.openai", "vllm.v1.engine.core"):
    try:
        raise ValueError("{SECRET}")
    except ValueError:
        logging.getLogger(name).exception("failed")
logging.getLogger("vllm.v1.engine.async_llm").info("started")
"""


def document(engine: str) -> ModelDocument:
    task = {"vllm": "chat", "diffusers": "image"}.get(engine, engine)
    spec = {"task": task, "engine": engine, "source": {"path": "/models/it"}}
    return ModelDocument.model_validate(
        {"apiVersion": "aiia.dev/v1", "kind": "Model", "metadata": {"name": "it"}, "spec": spec}
    )


@pytest.mark.parametrize("engine", ["vllm", "embedding", "rerank", "diffusers"])
def test_serves_log_of_every_replica_is_json(engine: str) -> None:
    assert engines.application(document(engine), Path("/cache"))["logging_config"] == {"encoding": "JSON"}


def test_vllm_logs_json_without_what_was_asked() -> None:
    configuration = ray_environment(RaySettings.from_environment())["VLLM_LOGGING_CONFIG_PATH"]
    done = subprocess.run(
        [sys.executable, "-c", FAILING, configuration],
        env={**os.environ, "PYTHONPATH": str(ROOT / "serving")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    serving, core, started = lines
    assert (serving["logger"], serving["level"], serving["message"]) == ("vllm.entrypoints.openai", "error", "failed")
    assert serving["exception"].endswith("ValueError")
    assert SECRET not in json.dumps(serving)
    assert core["exception"].endswith(f"ValueError: {SECRET}"), "of the engine itself, which sees no texts"
    assert (started["level"], started["message"]) == ("info", "started")


def test_what_ray_prints_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        head.tell([b"Local node IP: 127.0.0.1\n", b"\n", b"  100% of it \xff\n"])
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ray", "INFO", "Local node IP: 127.0.0.1"),
        ("ray", "INFO", "100% of it \ufffd"),
    ]
