"""From what `aiia doctor` sees to what it says: a pure function, the worst first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from aiia_cli.amounts import count, size, span
from aiia_cli.record import InstanceRecord

#: `problem`: somebody has to do something. `waiting`: it is slower than it could be, or will be well by itself.
Level = Literal["problem", "waiting", "fine"]
_ORDER: tuple[Level, ...] = ("problem", "waiting", "fine")

_DISK_FULL = 300e6
_DISK_LOW = 5e9
_MEMORY_LOW = 1e9
#: From so many seconds on a wait is a problem rather than a busy moment.
_LONG_WAIT_S = 60.0
_OFTEN = 3


class Finding(NamedTuple):
    """`about`: a role, a model, or a part of the machine. `advice`: what to do; '' when nothing need be done."""

    level: Level
    about: str
    what: str
    advice: str = ""


@dataclass(frozen=True)
class Facts:
    """What was seen. None and empty: it could not be seen, or it is not there.

    `errors`: for each role how many lines of its log are errors, and the last of them. `deaf`: roles that run and do
    not answer on their port. `api_error`: why the models are not known. `queue`: as `GET /v1/queue` answers.
    `disk_free`: bytes free by folder. `gpu`: what is wrong with the driver of a GPU that is there.
    """

    data_dir: str
    record: InstanceRecord | None = None
    running: bool = False
    errors: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    deaf: tuple[str, ...] = ()
    port_taken: str = ""
    readyz: Mapping[str, Any] | None = None
    models: tuple[Mapping[str, Any], ...] = ()
    api_error: str = ""
    queue: Mapping[str, Any] | None = None
    disk_free: Mapping[str, int] = field(default_factory=dict)
    memory_available: int | None = None
    gpu: str = ""


def findings(facts: Facts) -> list[Finding]:
    """All there is to say; one finding of level `fine` if there is nothing else."""
    found = [*_machine(facts), *_instance(facts)]
    if facts.running:
        found += [*_roles(facts), *_dependencies(facts), *_models(facts), *_logs(facts)]
    found.sort(key=lambda finding: _ORDER.index(finding.level))
    if not found and facts.record:
        ready = sum(model["state"] == "ready" for model in facts.models)
        found.append(Finding("fine", "aiia", f"Everything runs; {count(ready, 'model')} ready, nothing waits"))
    return found


def _instance(facts: Facts) -> Iterator[Finding]:
    if facts.running:
        return
    last = facts.record
    if last and last["error"]:
        yield Finding("problem", "aiia", f"It did not start: {last['error']}", "aiia up")
    else:
        yield Finding("problem", "aiia", f"Nothing runs on {facts.data_dir}", "aiia up")
    if facts.port_taken:
        yield Finding("problem", "port", facts.port_taken)
    yield from _logs(facts)


def _machine(facts: Facts) -> Iterator[Finding]:
    for folder, free in facts.disk_free.items():
        if free < _DISK_FULL:
            yield Finding(
                "problem", "disk", f"{size(free)} free in {folder}, nothing can be written soon", "Free some space"
            )
        elif free < _DISK_LOW:
            yield Finding("waiting", "disk", f"{size(free)} free in {folder}, downloads need more", "Free some space")
    if facts.memory_available is not None and facts.memory_available < _MEMORY_LOW:
        yield Finding(
            "waiting",
            "memory",
            f"{size(facts.memory_available)} available, models may be killed for want of it",
            "Unload a model: aiia models unload NAME",
        )
    if facts.gpu:
        yield Finding("problem", "gpu", facts.gpu, "Install or repair the driver, then: AIIA_ENGINE=gpu ./aiia setup")


def _roles(facts: Facts) -> Iterator[Finding]:
    for name, role in (facts.record or {"roles": {}})["roles"].items():
        log = f"aiia logs {name}"
        if role["state"] == "failed":
            yield Finding("problem", name, f"Is not running: {role['detail']}", log)
        elif role["state"] == "waiting":
            yield Finding("waiting", name, "Waits for the processes before it")
        elif role["state"] == "starting":
            why = f", after {role['detail']}" if role["detail"] else ""
            yield Finding("waiting", name, f"Is starting{why}", log if why else "")
        elif name in facts.deaf:
            yield Finding("problem", name, f"Runs, but does not answer on port {role['port']}", log)
        elif role["restarts"] >= _OFTEN:
            yield Finding("waiting", name, f"Was started again {role['restarts']} times since the start", log)


def _dependencies(facts: Facts) -> Iterator[Finding]:
    roles = (facts.record or {"roles": {}})["roles"]
    for name, check in (facts.readyz or {}).get("dependencies", {}).items():
        # What is said of the role already needs no second word.
        if not check["ok"] and roles.get(name, {"state": "ready"})["state"] == "ready":
            yield Finding("problem", name, check["reason"], f"aiia logs {'web' if name == 'gateway' else name}")


def _logs(facts: Facts) -> Iterator[Finding]:
    for role, (number, last) in facts.errors.items():
        yield Finding("waiting", role, f"Logged {count(number, 'error')}, the last: {last}", f"aiia logs {role}")


def _models(facts: Facts) -> Iterator[Finding]:
    manager = (facts.record or {"roles": {}})["roles"].get("manager", {"state": "ready"})
    # What is said of the role already needs no second word.
    if facts.api_error and manager["state"] == "ready":
        yield Finding("problem", "models", facts.api_error, "aiia logs manager")
    loads = (facts.queue or {}).get("models", {})
    for model in facts.models:
        load = loads.get(model.get("base") or model["id"]) or model.get("queue") or {}
        # An adapter waits in the queue of its base, where it is told.
        if not model.get("base"):
            yield from _model(model, load)


def _model(model: Mapping[str, Any], load: Mapping[str, Any]) -> Iterator[Finding]:
    name, state, waiting = model["id"], model["state"], load.get("waiting", 0)
    waits = f"; {count(waiting, 'request')} {'waits' if waiting == 1 else 'wait'} for it" if waiting else ""
    reason = str(model.get("reason") or "").rstrip(".")
    left = f", about {span(model['eta_s'])} left" if model.get("eta_s") else ""
    match state:
        case "failed":
            yield Finding("problem", name, f"Failed: {reason or 'no reason given'}{waits}", f"aiia models load {name}")
        case "downloading":
            progress = f" {model['progress'] * 100:.0f} %" if model.get("progress") is not None else ""
            yield Finding("waiting", name, f"Is downloading{progress}{left}{waits}")
        case "starting" | "registered" | "draining":
            word = {"starting": "Is starting", "registered": "Has its start before it", "draining": "Is stopping"}[
                state
            ]
            yield Finding("waiting", name, f"{word}{f': {reason}' if reason else ''}{left}{waits}")
        case "cold" if waiting and not model.get("starts_on_demand", True):
            yield Finding("problem", name, f"Is unloaded{waits}", f"aiia models load {name}")
        case "cold" if waiting:
            yield Finding("waiting", name, f"Is asleep and starts now{waits}")
        case "ready" if waiting:
            yield _busy(model, load)


def _busy(model: Mapping[str, Any], load: Mapping[str, Any]) -> Finding:
    name, waiting, slots = model["id"], load["waiting"], load.get("slots", 0)
    oldest = max((found.get("oldest_s") or 0 for found in (load.get("classes") or {}).values()), default=0)
    work = load.get("work_s")
    about = f", about {span(work)}" if work else ""
    waited = f" (the first since {span(oldest)})" if oldest >= 1 else ""
    what = f"{count(waiting, 'request')} {'waits' if waiting == 1 else 'wait'}{about}{waited}"
    replicas, most = model.get("replicas", 0), model.get("max_replicas", 1)
    level: Level = "problem" if max(work or 0, oldest) > _LONG_WAIT_S else "waiting"
    if model.get("engine") == "openai":
        return Finding(level, name, f"{what}; all {slots} requests in flight at its endpoint are taken")
    full = f"{replicas} of {most} replicas full ({load.get('running', 0)} of {slots} requests)"
    if replicas < most:
        return Finding(level, name, f"{what}; {full}, more are started as the wait grows")
    more = f"aiia models scale {name} --max {most + 1}, if the machine has room (aiia models fit)"
    return Finding(level, name, f"{what}; {full}", more)
