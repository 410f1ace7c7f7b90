"""Sleep in place of ending: engines that give their GPU's memory back and keep their process, woken in seconds.

Serve knows nothing of it: for Serve such a model has one replica. The manager decides by the same demand and the same
rules as Serve's policy, for which a sleeping replica counts as none.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from aiia_serving.autoscaling.decision import Demand, Rules, Scaler
from aiia_serving.autoscaling.demand import Demands
from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.manager.hand import CallError, Hand
from aiia_serving.manager.stored import read_stored, write_stored

log = logging.getLogger(__name__)

_DECIDE_EVERY_S = 0.5
# Gateways have heard that the model is cold by then, and what they had let through shows in the demand.
_SETTLES_S = 2.0
_RETRY_S = 60.0


def sleeps(document: ModelDocument) -> bool:
    """Whether this model sleeps when nobody needs it."""
    return document.spec.vllm is not None and document.spec.vllm.sleep


class Sleeping:
    """Puts models to sleep and wakes them, for as long as ``run`` runs. ``changed`` is called after each step.

    ``rules`` returns those of every model that may sleep and should run.
    """

    def __init__(
        self,
        path: Path,
        hand: Hand,
        demands: Demands,
        rules: Callable[[], Mapping[str, Rules]],
        changed: Callable[[], None],
    ) -> None:
        self._path = path
        self._hand = hand
        self._demands = demands
        self._rules = rules
        self._changed = changed
        self._scalers: dict[str, Scaler] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        # On the way there, and on the way back.
        self._dozing: set[str] = set()
        self._waking: set[str] = set()
        # The process that sleeps, by model: one that took its place is awake.
        self._pids: dict[str, int] = read_stored(path)

    def away(self, name: str) -> bool:
        """Whether the model takes no requests, because it sleeps or is on its way there or back."""
        return name in self._dozing or self.asleep(name)

    def asleep(self, name: str) -> bool:
        report = (self._hand.reports or {}).get(name)
        known = name in self._pids and name not in self._dozing
        return known and report is not None and report["pids"] == [self._pids[name]]

    def waking(self, name: str) -> bool:
        return name in self._waking

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                for name, rules in self._rules().items():
                    if name not in self._busy:
                        self._decide(name, rules, tasks)
                await asyncio.sleep(_DECIDE_EVERY_S)

    def _decide(self, name: str, rules: Rules, tasks: asyncio.TaskGroup) -> None:
        report = (self._hand.reports or {}).get(name)
        # One that must not be cold wakes whether the gateway answers or not.
        demand = self._demands.get(name) or (Demand() if rules.min_replicas else None)
        if demand is None or report is None or report["target"] != 1 or report["running"] != 1:
            return
        now = time.monotonic()
        asleep = self.asleep(name)
        rules = replace(rules, max_replicas=1, min_replicas=min(1, rules.min_replicas))
        want = self._scalers.setdefault(name, Scaler()).decide(demand, 0 if asleep else 1, rules, now)
        if bool(want) == asleep and now >= self._not_before.get(name, 0):
            step = self._wake(name) if asleep else self._sleep(name, report["pids"][0])
            self._busy[name] = tasks.create_task(step)
            self._busy[name].add_done_callback(lambda _: self._busy.pop(name, None))

    async def _sleep(self, name: str, pid: int) -> None:
        self._dozing.add(name)
        self._changed()
        try:
            await asyncio.sleep(_SETTLES_S)
            demand = self._demands.get(name)
            if demand is None or not demand.idle:
                return
            # Before it is true: a manager that ends now wakes it for nothing, which does no harm.
            self._mark(name, pid)
            await self._hand.call(name, "sleep")
        except CallError as error:
            log.warning("model does not sleep", extra={"fields": {"model": name, "error": str(error)}})
            self._not_before[name] = time.monotonic() + _RETRY_S
            self._mark(name, None)
        finally:
            self._dozing.discard(name)
            self._changed()

    async def _wake(self, name: str) -> None:
        self._waking.add(name)
        self._changed()
        try:
            await self._hand.call(name, "wake_up")
        except CallError as error:
            log.warning("model does not wake", extra={"fields": {"model": name, "error": str(error)}})
            self._not_before[name] = time.monotonic() + _DECIDE_EVERY_S
        else:
            self._mark(name, None)
        finally:
            self._waking.discard(name)
            self._changed()

    def _mark(self, name: str, pid: int | None) -> None:
        if pid is None:
            self._pids.pop(name, None)
        else:
            self._pids[name] = pid
        write_stored(self._path, self._pids)
        self._changed()
