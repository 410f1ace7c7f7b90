"""Models on this machine's own Ray: prepared, deployed through the driver process, scaled, and watched."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiia_serving.autoscaling.decision import Rules
from aiia_serving.autoscaling.demand import demands
from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.options import Adapter, ImageModel
from aiia_serving.engines import capabilities
from aiia_serving.engines.autoscaling import scaled_application
from aiia_serving.engines.environment import RaySettings
from aiia_serving.manager.board import Board
from aiia_serving.manager.driver import AppReport
from aiia_serving.manager.hand import Hand
from aiia_serving.manager.holdings import Holdings
from aiia_serving.manager.phases import Facts, Phase, Phases, going_on, of_files
from aiia_serving.manager.preparing import Preparing
from aiia_serving.manager.sleeping import Sleeping, sleeps
from aiia_serving.manager.timings import Timings
from aiia_serving.manager.wishes import Wishes
from aiia_serving.state import ModelState, State, Upstream

_REPORT_EVERY_S = 1.0

#: How a document and its rules become an entry of Serve's configuration.
Build = Callable[[ModelDocument, Path, Rules], dict[str, Any]]


class LocalModels:
    """Keeps Serve's applications equal to the documents and the wishes, for as long as ``run`` runs."""

    def __init__(self, board: Board, settings: RaySettings, wishes: Wishes, build: Build = scaled_application) -> None:
        folder = settings.data_dir / "manager"
        timings = Timings(folder / "timings.json")
        self._board = board
        self._settings = settings
        self._wishes = wishes
        self._build = build
        self._documents: dict[str, ModelDocument] = {}
        # What goes on until the files of the document in its place are here.
        self._before: dict[str, ModelDocument] = {}
        # Taken out of Serve for a moment, to be deployed anew.
        self._again: set[str] = set()
        self._unbuilt: dict[str, str] = {}
        self._shown: set[str] = set()
        self._phases = Phases(timings)
        self._preparing = Preparing(settings.model_cache, timings, self._step)
        self._hand = Hand(settings, self._applications, self._reported)
        self._sleeping = Sleeping(folder / "asleep.json", self._hand, demands(), self._sleepers, self._step)
        self._holdings = Holdings(settings.serve_port, self._image_models, self._step)
        self._changed = asyncio.Event()
        self._notes: Mapping[str, str] = {}

    def want(self, documents: Mapping[str, ModelDocument], notes: Mapping[str, str] | None = None) -> None:
        """From now on these documents, by name, are what should run. ``notes`` are told with their states."""
        self._notes = notes or {}
        for name in self._documents.keys() | documents.keys():
            if self._documents.get(name) != documents.get(name):
                self._replace(name, documents.get(name))
        self._step()

    def refresh(self, name: str) -> None:
        """The wish of this model may have changed; what failed before is tried again."""
        if not self._wishes.get(name).unloaded:
            self.pull(name)
            if (report := self._report(name)) is not None and report["broken"]:
                self._again.add(name)
        self._step()

    def pull(self, name: str) -> None:
        """Fetches the model's files, whether it should run or not."""
        if not self._preparing.present(self._documents[name]):
            self._preparing.ask(self._documents[name])

    def _replace(self, name: str, document: ModelDocument | None) -> None:
        report = self._report(name)
        broken = report is not None and report["broken"]
        before = self._served(name) if name in self._documents and self._runs(name) and not broken else None
        self._before.pop(name, None)
        self._preparing.forget(name)
        if document is None:
            del self._documents[name]
            return
        self._documents[name] = document
        if before is not None:
            self._before[name] = before
        self.refresh(name)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._preparing.run())
            tasks.create_task(self._hand.run())
            tasks.create_task(self._sleeping.run())
            tasks.create_task(self._holdings.run())
            tasks.create_task(self._show())

    def _step(self) -> None:
        self._hand.look()
        self._changed.set()

    async def _reported(self) -> None:
        if self._again:
            self._again = {name for name in self._again if self._report(name) is not None}
            self._hand.look()
        self._changed.set()

    def _report(self, name: str) -> AppReport | None:
        return (self._hand.reports or {}).get(name)

    def _applications(self) -> list[dict[str, Any]]:
        applications = []
        self._unbuilt.clear()
        for name in sorted(self._documents):
            if self._runs(name) and name not in self._again:
                document = self._served(name)
                try:
                    applications.append(self._build(document, self._settings.model_cache, self._serve_rules(document)))
                except (LookupError, OSError, ValueError) as error:
                    # One model's mistake is not to end the others.
                    self._unbuilt[name] = str(error)
        return applications

    def _served(self, name: str) -> ModelDocument:
        """What its replicas are to be of: its document, or the one before while that runs and the new files come."""
        document = self._documents[name]
        if self._is_prepared(document):
            self._before.pop(name, None)
        return document if self._wishes.get(name).unloaded else self._before.get(name, document)

    def _runs(self, name: str) -> bool:
        unloaded = self._wishes.get(name).unloaded
        document = self._served(name)
        return not unloaded and (document is not self._documents[name] or self._is_prepared(document))

    def _is_prepared(self, document: ModelDocument) -> bool:
        return not self._preparing.waits(document.id) and self._preparing.present(document)

    def _rules(self, document: ModelDocument) -> Rules:
        scaling = document.spec.scaling
        least, most = self._wishes.get(document.id).bounds(scaling)
        return Rules(
            min_replicas=least,
            max_replicas=most,
            window=scaling.max_in_flight,
            target_wait_s=scaling.target_wait_s,
            scale_down_after_s=scaling.scale_down_after_s,
            scale_to_zero_after_s=scaling.scale_to_zero_after_s,
        )

    def _serve_rules(self, document: ModelDocument) -> Rules:
        """The rules for Serve's policy, which counts a sleeping replica as one."""
        rules = self._rules(document)
        if not sleeps(document):
            return rules
        most = 1 if self._sleeping.away(document.id) else rules.max_replicas
        return Rules(**{**vars(rules), "min_replicas": min(most, max(1, rules.min_replicas)), "max_replicas": most})

    def _sleepers(self) -> dict[str, Rules]:
        return {
            name: self._rules(self._served(name))
            for name in self._documents
            if sleeps(self._served(name)) and self._runs(name)
        }

    def _image_models(self) -> list[str]:
        """Those with a replica that can be asked."""
        found = [name for name in self._documents if self._served(name).spec.engine == "diffusers"]
        return [name for name in found if (report := self._report(name)) is not None and report["running"]]

    async def _show(self) -> None:
        while True:
            self._changed.clear()
            await self._show_once()
            try:
                async with asyncio.timeout(_REPORT_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _show_once(self) -> None:
        states = {state.id: state for name in self._documents for state in self._states(name)}
        for name in self._shown - states.keys():
            last = self._board.get(name)
            if last is None or last.engine == "none":
                # A refusal has its place.
                self._shown.discard(name)
            elif self._report(last.queue) is None:
                self._phases.forget(name)
                self._shown.discard(name)
                await self._board.drop(name)
            else:
                draining = {"state": State.DRAINING, "reason": "Finishing its last requests", "eta_s": None}
                await self._board.put(last.model_copy(update=draining))
        for state in states.values():
            await self._board.put(state)
        self._shown |= states.keys()

    def _states(self, name: str) -> list[ModelState]:
        """The model's, and those of the further models on its replicas."""
        document, cache = self._served(name), self._settings.model_cache
        step, failure = self._preparing.step(name), self._preparing.failure(name)
        # Of the document that waits for them.
        files = None if document is self._documents[name] else of_files(step, failure)
        rules, report = self._rules(document), self._report(name)
        unloaded = self._wishes.get(name).unloaded
        away = self._sleeping.away(name)
        facts = Facts(
            unloaded=unloaded,
            may_be_cold=rules.min_replicas == 0,
            present=files is not None or self._preparing.present(document),
            step=step if files is None else None,
            failure=(failure if files is None else None) or self._unbuilt.get(name),
            ray=self._hand.reports is not None,
            report=report,
            away=away,
            asleep=self._sleeping.asleep(name),
            waking=self._sleeping.waking(name),
        )
        phase = self._phases.phase(name, facts)
        if files is not None:
            phase = going_on(phase, files)
        running = report["running"] if report and not away else 0
        words = capabilities.of(document, cache)
        state = ModelState(
            id=name,
            task=document.spec.task,
            engine=document.spec.engine,
            title=document.title,
            **_told(phase) | {"reason": self._notes.get(name) or phase.reason},
            upstream=self._upstream(name, name),
            max_model_len=capabilities.max_model_len(document, cache),
            max_new_tokens=document.spec.sampling.max_new_tokens if document.spec.sampling else None,
            max_in_flight=rules.window * max(1, running),
            exact_continuation="token_ids" in words,
            capabilities=words,
            starts_on_demand=not unloaded,
            replicas=running,
            min_replicas=rules.min_replicas,
            max_replicas=rules.max_replicas,
            held=self._holdings.of(name, name),
        )
        states = [state, *(self._beside(state, model) for model in document.beside)]
        if files is not None:
            known = {one.id for one in states}
            new = [model for model in self._documents[name].beside if model.name not in known]
            states += [self._beside(state, model).model_copy(update=_told(files)) for model in new]
        return states

    def _beside(self, base: ModelState, model: Adapter | ImageModel) -> ModelState:
        """The state of a further model on the replicas of ``base``."""
        change = {
            "id": model.name,
            "title": model.title or model.name,
            "upstream": self._upstream(base.id, model.name),
            "base": base.id,
            "held": self._holdings.of(base.id, model.name),
        }
        return base.model_copy(update=change)

    def _upstream(self, application: str, model: str) -> Upstream:
        return Upstream(base_url=f"http://127.0.0.1:{self._settings.serve_port}/{application}/v1", model=model)


def _told(phase: Phase) -> dict[str, Any]:
    return {
        "state": phase.state,
        "reason": phase.reason,
        "progress": None if phase.progress is None else round(phase.progress, 2),
        "eta_s": None if phase.eta_s is None else round(phase.eta_s),
    }
