"""Models at remote OpenAI-compatible endpoints: listed, probed, and never in anybody's way."""

import asyncio
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import aiohttp

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines import capabilities
from aiia_serving.manager.board import Board
from aiia_serving.settings import model_cache
from aiia_serving.state import ModelState, State, Upstream

_PROBE_TIMEOUT_S = 5.0
# A moment's silence is not to fail all who wait.
_MISSES_IN_A_ROW = 3


@dataclass(frozen=True)
class Endpoint:
    """One endpoint: with a ``document`` a single model of it, else all that it lists. ``note`` goes with its state."""

    url: str
    api_key: str | None
    document: ModelDocument | None = None
    note: str | None = None

    @classmethod
    def of_environment(cls) -> "Endpoint | None":
        """The endpoint of ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``."""
        url = os.environ.get("OPENAI_BASE_URL")
        return cls(url.rstrip("/"), os.environ.get("OPENAI_API_KEY") or None) if url else None

    @classmethod
    def of_document(cls, document: ModelDocument, note: str | None = None) -> "Endpoint":
        source = document.spec.source
        key = os.environ.get(source.api_key_env) if source.api_key_env else None
        return cls(str(source.url).rstrip("/"), key, document, note)


class RemoteModels:
    """Probes one endpoint for as long as ``run`` runs. Models that were seen once stay, as failed, when it is away.

    ``documented`` says whether a model that the endpoint lists has a document, which goes first.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        board: Board,
        session: aiohttp.ClientSession,
        documented: Callable[[str], bool],
    ) -> None:
        self._endpoint = endpoint
        self._board = board
        self._session = session
        self._documented = documented
        self._every_s = float(os.environ.get("AIIA_PROBE_EVERY_S") or 5)
        # One that never answered is not waited for.
        self._misses = _MISSES_IN_A_ROW
        self._seen: set[str] = {endpoint.document.id} if endpoint.document else set()

    async def run(self) -> None:
        while True:
            await self._probe()
            await asyncio.sleep(self._every_s)

    async def forget(self, keep: Collection[str]) -> None:
        """Takes its models off the board, but for those to ``keep``, whose states somebody else puts there now."""
        for model_id in self._seen.difference(keep):
            await self._board.drop(model_id)

    async def _probe(self) -> None:
        document = self._endpoint.document
        try:
            listed = await self._list()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError, KeyError) as error:
            self._misses += 1
            for model_id in self._seen:
                await self._miss(model_id, self._advice(error))
            return
        self._misses = 0
        if document is None:
            for model_id in self._seen - listed.keys():
                if self._is_ours(model_id):
                    await self._board.drop(model_id)
            self._seen = set(listed)
            for model_id, entry in listed.items():
                await self._put(model_id, State.READY, None, _context_length(entry))
            return
        name = document.spec.source.model or document.id
        if name in listed:
            await self._put(document.id, State.READY, None, _context_length(listed[name]))
        else:
            known = ", ".join(sorted(listed)) or "no models"
            await self._put(document.id, State.FAILED, f"{self._endpoint.url} has no model '{name}'; it lists {known}.")

    async def _list(self) -> dict[str, dict[str, Any]]:
        key = self._endpoint.api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        async with self._session.get(f"{self._endpoint.url}/models", headers=headers, timeout=timeout) as response:
            response.raise_for_status()
            answer = await response.json(content_type=None)
        return {str(entry["id"]): entry for entry in answer["data"]}

    def _advice(self, error: Exception) -> str:
        url = self._endpoint.url
        if isinstance(error, aiohttp.ClientResponseError):
            if error.status in (401, 403):
                return f"{url} refuses the API key. Set OPENAI_API_KEY, or the variable named by the model's document."
            return f"{url} answers with status {error.status}. Is it the base URL of an OpenAI-compatible API?"
        if isinstance(error, TimeoutError):
            return f"{url} does not answer within {_PROBE_TIMEOUT_S:.0f} s. Is the server overloaded?"
        if isinstance(error, aiohttp.ClientConnectionError | OSError):
            return f"{url} cannot be reached. Start the server there, or correct the address."
        return f"{url} does not answer as an OpenAI-compatible API. Does the address end with /v1?"

    async def _miss(self, model_id: str, reason: str) -> None:
        shown = self._board.get(model_id)
        if shown is None or self._misses >= _MISSES_IN_A_ROW:
            await self._put(model_id, State.FAILED, reason)
        elif self._is_ours(model_id):
            await self._board.put(shown.model_copy(update={"reason": self._endpoint.note or reason}))

    def _is_ours(self, model_id: str) -> bool:
        """Whether its state is this endpoint's to tell."""
        if self._endpoint.document is not None:
            return True
        shown = self._board.get(model_id)
        # The states of a local model stay until it has ended, also when its document is gone.
        return not self._documented(model_id) and (shown is None or shown.engine == "openai")

    async def _put(self, model_id: str, state: State, reason: str | None, max_model_len: int | None = None) -> None:
        document = self._endpoint.document
        if not self._is_ours(model_id):
            return
        upstream = Upstream(
            base_url=self._endpoint.url,
            model=(document.spec.source.model if document else None) or model_id,
            api_key=self._endpoint.api_key,
        )
        await self._board.put(
            ModelState(
                id=model_id,
                task=document.spec.task if document else "chat",
                engine="openai",
                title=document.title if document else model_id,
                state=state,
                reason=self._endpoint.note or reason,
                upstream=upstream,
                max_model_len=max_model_len,
                max_in_flight=document.spec.scaling.max_in_flight if document else 32,
                capabilities=capabilities.of(document, model_cache()) if document else (),
            )
        )


def _context_length(entry: dict[str, Any]) -> int | None:
    for key in ("max_model_len", "max_context_length", "context_length"):
        if isinstance(entry.get(key), int):
            return int(entry[key])
    return None
