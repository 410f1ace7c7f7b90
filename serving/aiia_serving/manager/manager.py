"""The manager: follows the documents on disk and hands each model to the part that keeps it."""

import asyncio
import contextlib
import logging
import os

import aiohttp

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.loader import Catalogue, catalogue_folders, fingerprint, load_catalogue
from aiia_serving.engines.environment import RaySettings
from aiia_serving.manager.board import Board
from aiia_serving.manager.local import LocalModels
from aiia_serving.manager.owned import OwnedDocuments
from aiia_serving.manager.remote import Endpoint, RemoteModels
from aiia_serving.manager.wishes import Wish, Wishes
from aiia_serving.state import ModelState, State

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


class UnknownModel(LookupError):
    """No model of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no model {name}.")


class NotPossible(Exception):
    """The model's engine has no such thing; the message says why."""


class Manager:
    """Runs until it is cancelled; ``board`` has the states, ``owned`` the documents that may be changed."""

    def __init__(self, settings: RaySettings, local: LocalModels | None, board: Board, wishes: Wishes) -> None:
        self.settings = settings
        self.board = board
        self.folders = catalogue_folders()
        self.owned = OwnedDocuments(self.folders)
        self._catalogue = Catalogue({}, ())
        self._local = local
        self._wishes = wishes
        # By document; the endpoint of the environment has no name.
        self._remote: dict[str, tuple[Endpoint, RemoteModels, asyncio.Task[None]]] = {}
        self._refused: set[str] = set()
        self._look = asyncio.Event()

    @classmethod
    def from_environment(cls) -> "Manager":
        settings, board = RaySettings.from_environment(), Board()
        wishes = Wishes(settings.data_dir / "manager" / "wishes.json")
        without = os.environ.get("AIIA_NO_MODELS") == "1"
        return cls(settings, None if without else LocalModels(board, settings, wishes), board, wishes)

    @property
    def documents(self) -> dict[str, ModelDocument]:
        """The wanted models by name."""
        return self._catalogue.documents

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            if self._local is not None:
                tasks.create_task(self._local.run())
            await self._follow(session, tasks)

    def look(self) -> None:
        """The documents have changed."""
        self._look.set()

    def load(self, name: str) -> None:
        """Keeps at least one replica from now on, also over restarts. Raises ``UnknownModel``, ``NotPossible``."""
        local, document = self._local_model(name)
        wish = self._wishes.get(name)
        least, _ = wish.bounds(document.spec.scaling)
        change = {"unloaded": False} | ({"min_replicas": 1} if least == 0 else {})
        self._wishes.put(name, wish.model_copy(update=change))
        local.refresh(name)

    def unload(self, name: str) -> None:
        """Ends all replicas once they have answered, until it is loaded again. Raises as ``load``."""
        local, _ = self._local_model(name)
        self._wishes.put(name, self._wishes.get(name).model_copy(update={"unloaded": True}))
        local.refresh(name)

    def scale(self, name: str, least: int | None, most: int | None) -> None:
        """Sets the bounds in place of the document's. Raises as ``load``, and ``ValueError`` if they cannot be."""
        local, document = self._local_model(name)
        wish = self._wishes.get(name)
        old_least, old_most = wish.bounds(document.spec.scaling)
        least, most = old_least if least is None else least, old_most if most is None else most
        if least > most:
            raise ValueError(f"min_replicas {least} is greater than max_replicas {most}")
        self._wishes.put(name, wish.model_copy(update={"min_replicas": least, "max_replicas": most}))
        local.refresh(name)

    def pull(self, name: str) -> None:
        """Fetches the model's files, whether it is loaded or not. Raises as ``load``."""
        local, _ = self._local_model(name)
        local.pull(name)

    def remove(self, name: str) -> None:
        """Removes an owner's document; its model ends once it has answered. Raises ``UnknownModel``, ``NotOwned``."""
        if name not in self.documents and self.board.get(name) is None:
            raise UnknownModel(name)
        self.owned.remove(name)
        self._wishes.put(name, Wish())
        self.look()

    def _local_model(self, name: str) -> tuple[LocalModels, ModelDocument]:
        document = self.documents.get(name)
        if document is None:
            if (shown := self.board.get(name)) is None:
                raise UnknownModel(name)
            if shown.base:
                raise NotPossible(f"{name} is on the replicas of {shown.base}; change that.")
            raise NotPossible(f"{name} is not run by aiia: {shown.reason or 'it is at a remote endpoint'}.")
        if document.spec.engine == "openai":
            raise NotPossible(f"{name} runs at a remote endpoint, which is not aiia's to load or scale.")
        if self._local is None:
            raise NotPossible("No models run on this machine (--no-models).")
        return self._local, document

    async def _follow(self, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        seen: object = None
        while True:
            self._look.clear()
            mark = fingerprint(self.folders)
            if mark != seen:
                seen = mark
                await self._take(load_catalogue(self.folders, self._catalogue), session, tasks)
            # Not wait_for, which loses the word to end when another comes at the same time.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._look.wait()

    async def _take(self, catalogue: Catalogue, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        self._catalogue = catalogue
        local = {name: document for name, document in catalogue.documents.items() if document.spec.engine != "openai"}
        notes = {name: str(refusal) for name, refusal in catalogue.outdated.items()}
        if self._local is not None:
            self._local.want(local, notes)
        endpoints = {
            document.id: Endpoint.of_document(document, notes.get(document.id))
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
                await asyncio.wait({task})
                await remote.forget(keep)
        for name, endpoint in endpoints.items():
            if name not in self._remote:
                remote = RemoteModels(endpoint, self.board, session, self._is_remote)
                self._remote[name] = (endpoint, remote, tasks.create_task(remote.run()))

    def _is_remote(self, name: str) -> bool:
        """Whether a document names this model of a remote endpoint."""
        document = self.documents.get(name)
        return document is not None and document.spec.engine == "openai"

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
