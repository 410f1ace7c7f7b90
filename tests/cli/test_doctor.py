"""`aiia doctor` says what is wrong, the worst first, and what to do."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from aiia_cli import doctor
from aiia_cli.datadir import DataDir
from aiia_cli.findings import Facts, Finding, findings
from aiia_cli.record import InstanceRecord
from tests.cli.test_up import run_aiia
from tests.support.instance import Instance

unit = pytest.mark.unit
integration = pytest.mark.integration


def instance(**roles: dict[str, object]) -> InstanceRecord:
    role = {"pid": 1, "port": 8000, "state": "ready", "detail": "after 1.2 s", "restarts": 0}
    return {
        "pid": 1,
        "started": 0.0,
        "state": "ready",
        "error": "",
        "address": "http://127.0.0.1:8000",
        "data_dir": "/data",
        "database_url": "",
        "redis_url": "",
        "roles": {name: role | change for name, change in ({"web": {}, "worker": {}} | roles).items()},  # type: ignore[misc]
        "models": [],
        "processes": [],
    }


def facts(*models: dict[str, object], record: InstanceRecord | None = None, **more: Any) -> Facts:
    usual = {"id": "qwen3-8b", "engine": "vllm", "state": "ready", "replicas": 1, "max_replicas": 1}
    known = tuple(usual | model for model in models)
    return Facts(data_dir="/data", record=record or instance(), running=True, models=known, **more)


def load(waiting: int, **more: object) -> dict[str, Any]:
    queue = {"waiting": waiting, "running": 32, "slots": 32, "work_s": 40.0, "classes": {}} | more
    return {"models": {"qwen3-8b": queue}, "requests": []}


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


@unit
def test_nothing_wrong_is_one_line() -> None:
    found = only(findings(facts({})))
    assert found == ("fine", "aiia", "Everything runs; 1 model ready, nothing waits", "")
    assert doctor.exit_code([found]) == 0
    assert list(doctor.lines([found])) == ["● aiia: Everything runs; 1 model ready, nothing waits"]


@unit
def test_a_full_model_says_how_long_and_what_to_raise() -> None:
    found = only(findings(facts({}, queue=load(14, classes={"api": {"waiting": 14, "oldest_s": 12.0}}))))
    assert found.level == "waiting"
    assert found.about == "qwen3-8b"
    assert found.what == (
        "14 requests wait, about 40 s (the first since 12 s); 1 of 1 replicas full (32 of 32 requests)"
    )
    assert found.advice.startswith("aiia models scale qwen3-8b --max 2")


@unit
@pytest.mark.parametrize(
    ("model", "queue", "level", "words", "advice"),
    [
        ({}, load(3, work_s=400.0), "problem", "3 requests wait, about 7 min", "--max 2"),
        ({}, load(3, classes={"batch": {"waiting": 3, "oldest_s": 90.0}}), "problem", "since 2 min", "--max 2"),
        ({"max_replicas": 4}, load(3), "waiting", "1 of 4 replicas full", ""),
        ({"engine": "openai"}, load(1), "waiting", "1 request waits, about 40 s; all 32", ""),
        ({"state": "failed", "reason": "Out of memory."}, load(2), "problem", "Failed: Out of memory; 2", "load"),
        ({"state": "downloading", "progress": 0.62, "eta_s": 240}, None, "waiting", "62 %, about 4 min left", ""),
        ({"state": "starting", "reason": "Loading", "eta_s": 40}, load(1), "waiting", "1 request waits for it", ""),
        ({"state": "registered"}, None, "waiting", "Has its start before it", ""),
        ({"state": "draining"}, None, "waiting", "Is stopping", ""),
        ({"state": "cold", "starts_on_demand": False}, load(2), "problem", "Is unloaded; 2", "aiia models load"),
        ({"state": "cold"}, load(2), "waiting", "Is asleep and starts now; 2", ""),
    ],
)
def test_why_a_model_lets_wait(
    model: dict[str, object], queue: dict[str, Any] | None, level: str, words: str, advice: str
) -> None:
    found = only(findings(facts(model, queue=queue)))
    assert found.level == level
    assert words in found.what
    assert advice in found.advice
    assert bool(advice) == bool(found.advice)


@unit
def test_a_cold_model_that_nobody_wants_is_fine() -> None:
    assert only(findings(facts({"state": "cold"}))).level == "fine"


@unit
def test_an_adapter_waits_once() -> None:
    found = findings(facts({}, {"id": "pirate", "base": "qwen3-8b"}, queue=load(2)))
    assert only(found).about == "qwen3-8b"


@unit
def test_a_dead_role_comes_before_what_only_waits() -> None:
    died = {"state": "failed", "detail": "exit code 1: no space left; starting again in 2 s", "restarts": 3}
    readyz = {
        "dependencies": {"worker": {"ok": False, "reason": "No worker"}, "redis": {"ok": False, "reason": "Away"}}
    }
    found = findings(
        facts({}, record=instance(worker=died, manager={"state": "starting", "detail": ""}), readyz=readyz)
    )
    assert [(finding.level, finding.about) for finding in found] == [
        ("problem", "worker"),
        ("problem", "redis"),
        ("waiting", "manager"),
    ]
    assert found[0].what == "Is not running: exit code 1: no space left; starting again in 2 s"
    assert found[0].advice == "aiia logs worker"
    assert doctor.exit_code(found) == 1


@unit
def test_what_else_is_seen() -> None:
    seen = facts(
        record=instance(web={"restarts": 5}),
        deaf=("worker",),
        errors={"web": (3, "ERROR lost")},
        api_error="The model manager does not answer",
        disk_free={"/data": 1_200_000_000, "/cache": 1000},
        memory_available=500_000_000,
        gpu="The GPU's driver does not work",
    )
    found = {(finding.level, finding.about): finding.what for finding in findings(seen)}
    assert found == {
        ("problem", "disk"): "1 kB free in /cache, nothing can be written soon",
        ("problem", "gpu"): "The GPU's driver does not work",
        ("problem", "worker"): "Runs, but does not answer on port 8000",
        ("problem", "models"): "The model manager does not answer",
        ("waiting", "disk"): "1.2 GB free in /data, downloads need more",
        ("waiting", "memory"): "500.0 MB available, models may be killed for want of it",
        ("waiting", "web"): found["waiting", "web"],
    }


@unit
def test_errors_are_found_in_plain_and_json_logs(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.logs.mkdir()
    data.log("web").write_text("2026 INFO all well\n2026 ERROR a.b: first\n2026 ERROR a.b: second\nlast line\n")
    entries = [{"level": "info", "message": "no ERROR"}, {"level": "ERROR", "message": "document refused"}]
    data.log("manager").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    data.log("redis").write_text("Ready to accept connections\n")
    seen = doctor.gather(data)
    assert seen.errors == {"manager": (1, "document refused"), "web": (2, "2026 ERROR a.b: second")}
    assert not seen.running
    assert seen.disk_free


@integration
def test_when_nothing_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        (tmp_path / "instance.json").write_text(json.dumps(instance() | {"pid": 2**22, "address": address}))
        result = run_aiia("doctor", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    assert f"✗ aiia: Nothing runs on {tmp_path}\n    → aiia up" in result.stdout
    assert f"Port {port} on 127.0.0.1 is taken" in result.stdout
    assert result.stderr == ""


@integration
def test_a_running_instance_and_its_models(tmp_path: Path) -> None:
    arguments = ("--data-dir", str(tmp_path))
    with Instance(tmp_path, no_models=True) as running:
        running.wait_ready("postgres", "redis", "web", "worker", "manager")
        well = run_aiia("doctor", *arguments, "--json")
        assert not [finding for finding in json.loads(well.stdout) if finding["level"] == "problem"], well.stdout
        assert well.returncode == 0
        # With the instance's own token, no key is needed.
        listed = run_aiia("models", "list", *arguments, "--json")
        assert listed.returncode == 0, listed.stderr
        assert json.loads(listed.stdout) == {"models": []}
