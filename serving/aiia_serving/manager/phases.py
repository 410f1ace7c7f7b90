"""From what is known of a local model to the state that everybody sees."""

import time
from dataclasses import dataclass, replace

from aiia_serving.manager.driver import AppReport
from aiia_serving.manager.preparing import Step
from aiia_serving.manager.timings import Timings
from aiia_serving.state import State

# Before anything was measured; on a small machine without a GPU.
_FIRST_GUESS_S = 60.0

UNLOADED = "Unloaded by an administrator"


@dataclass(frozen=True)
class Facts:
    """``report`` is None while Serve does not know the model, ``ray`` says whether Ray answers at all."""

    unloaded: bool
    may_be_cold: bool
    present: bool
    step: Step | None
    failure: str | None
    ray: bool
    report: AppReport | None
    away: bool
    asleep: bool
    waking: bool


@dataclass(frozen=True)
class Phase:
    """A state with its reason, the progress from 0 to 1, and the seconds that are left."""

    state: State
    reason: str | None = None
    progress: float | None = None
    eta_s: float | None = None


def of_files(step: Step | None, failure: str | None) -> Phase:
    """The phase of a model of which nothing but its files' way here can be told."""
    if step is not None:
        return Phase(State.DOWNLOADING, step.reason, step.progress, step.eta_s)
    if failure is not None:
        return Phase(State.FAILED, failure)
    return Phase(State.REGISTERED, "Waits until the model before it is prepared")


def going_on(phase: Phase, files: Phase) -> Phase:
    """The phase of a model that goes on as its document was before, because the new ``files`` are not here."""
    if phase.state is State.FAILED:
        return phase
    told = f"Goes on as it was until its new files are here: {files.reason}"
    if phase.state is State.READY:
        return Phase(State.READY, told, files.progress, files.eta_s)
    return replace(phase, reason=f"{phase.reason}. {told}")


class Phases:
    """Tells phases, and learns from them how long models take to start."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._starting_since: dict[tuple[str, str], float] = {}

    def forget(self, name: str) -> None:
        for kind in ("start", "wake"):
            self._starting_since.pop((kind, name), None)

    def phase(self, name: str, facts: Facts) -> Phase:
        phase = self._phase(name, facts)
        if phase.state is State.READY:
            for kind in ("start", "wake"):
                if (since := self._starting_since.pop((kind, name), None)) is not None:
                    self._timings.record(f"{kind}:{name}", time.monotonic() - since)
        elif phase.state is not State.STARTING:
            self.forget(name)
        return phase

    def _phase(self, name: str, facts: Facts) -> Phase:
        report = facts.report
        if facts.step is not None:
            left = facts.step.eta_s + (0 if facts.unloaded else self._usual("start", name))
            return Phase(State.DOWNLOADING, facts.step.reason, facts.step.progress, left)
        if facts.unloaded:
            if report is not None:
                return Phase(State.DRAINING, "Finishing its last requests, then unloaded")
            return Phase(State.COLD, UNLOADED)
        if facts.failure is not None:
            return Phase(State.FAILED, facts.failure)
        if report is not None and report["running"]:
            return self._awake(name, facts)
        if not facts.present:
            return of_files(None, None)
        if report is not None and report["broken"]:
            return Phase(State.FAILED, _short(report["message"]))
        if facts.may_be_cold and (report is None or report["target"] == 0):
            return Phase(State.COLD, "Starts with the first request")
        return self._starting("start", name, "Loading the model" if facts.ray else "Waiting for Ray")

    def _awake(self, name: str, facts: Facts) -> Phase:
        if facts.waking:
            return self._starting("wake", name, "Waking up")
        if facts.away:
            return Phase(State.COLD, "Asleep" if facts.asleep else "Falling asleep")
        return Phase(State.READY)

    def _starting(self, kind: str, name: str, reason: str) -> Phase:
        elapsed = time.monotonic() - self._starting_since.setdefault((kind, name), time.monotonic())
        usual = self._usual(kind, name)
        return Phase(State.STARTING, reason, min(0.95, elapsed / usual), max(1.0, usual - elapsed))

    def _usual(self, kind: str, name: str) -> float:
        return self._timings.get(f"{kind}:{name}") or (_FIRST_GUESS_S if kind == "start" else _FIRST_GUESS_S / 10)


def _short(message: str) -> str:
    """The end of a long report: where Python says what was wrong."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return " ".join(lines)[-400:] or "The model could not be deployed; Ray's log says why."
