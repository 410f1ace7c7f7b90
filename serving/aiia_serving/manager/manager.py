"""The manager: follows the documents on disk and hands each model to the part that keeps it."""

import asyncio
import contextlib
import logging
import os
from pathlib import Path

import aiohttp

from aiia_serving.catalogue.loader import Catalogue, catalogue_folders, fingerprint, load_catalogue
from aiia_serving.engines.environment import RaySettings
from aiia_serving.manager.board import Board
from aiia_serving.manager.local import LocalModels
from aiia_serving.manager.remote import Endpoint, RemoteModels
from aiia_serving.manager.timings import Timings
from aiia_serving.state import ModelState, State

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


class Manager:
    """Runs until it is cancelled; ``board`` has the states."""

    def __init__(self, settings: RaySettings, with_local_models: bool) -> None:
        self.board = Board()
        self._local: LocalModels | None = None
        if with_local_models:
            self._local = LocalModels(self.board, settings, Timings(settings.data_dir / "manager" / "timings.json"))
        # By document; the endpoint of the environment has no name.
        self._remote: dict[str, tuple[Endpoint, RemoteModels, asyncio.Task[None]]] = {}
        self._refused: set[str] = set()

    @classmethod
    def from_environment(cls) -> "Manager":
        return cls(RaySettings.from_environment(), os.environ.get("AIIA_NO_MODELS") != "1")

    async def run(self) -> None:
        folders = catalogue_folders()
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            if self._local is not None:
                tasks.create_task(self._local.run())
            await self._follow(folders, session, tasks)

    async def _follow(self, folders: list[Path], session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        seen: object = None
        while True:
            mark = fingerprint(folders)
            if mark != seen:
                seen = mark
                await self._take(load_catalogue(folders), session, tasks)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _take(self, catalogue: Catalogue, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        local = {name: document for name, document in catalogue.documents.items() if document.spec.engine == "vllm"}
        if self._local is not None:
            self._local.want(local)
        endpoints = {
            document.id: Endpoint.of_document(document)
            for document in catalogue.documents.values()
            if document.spec.engine == "openai"
        }
        if (endpoint := Endpoint.of_environment()) is not None:
            endpoints[""] = endpoint
        keep = catalogue.documents.keys() | {refusal.name for refusal in catalogue.refusals}
        await self._probe(endpoints, keep, session, tasks)
        await self._show_refusals(catalogue)

    async def _probe(
        self,
        endpoints: dict[str, Endpoint],
        keep: set[str],
        session: aiohttp.ClientSession,
        tasks: asyncio.TaskGroup,
    ) -> None:
        for name, (endpoint, remote, task) in list(self._remote.items()):
            if endpoints.get(name) != endpoint:
                del self._remote[name]
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await remote.forget(keep)
        for name, endpoint in endpoints.items():
            if name not in self._remote:
                remote = RemoteModels(endpoint, self.board, session)
                self._remote[name] = (endpoint, remote, tasks.create_task(remote.run()))

    async def _show_refusals(self, catalogue: Catalogue) -> None:
        refused = {refusal.name: refusal for refusal in catalogue.refusals}
        for name in self._refused - refused.keys():
            state = self.board.get(name)
            if state is not None and state.engine == "none":
                await self.board.drop(name)
        self._refused = set(refused)
        for name, refusal in refused.items():
            log.error("document refused", extra={"fields": {"file": str(refusal.file), "problem": refusal.problem}})
            if name not in catalogue.documents:
                await self.board.put(
                    ModelState(id=name, task="chat", engine="none", title=name, state=State.FAILED, reason=str(refusal))
                )
