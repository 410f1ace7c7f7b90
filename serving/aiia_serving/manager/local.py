"""Models on this machine's own Ray: prepared, deployed through the driver process, and watched."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines import vllm
from aiia_serving.engines.environment import RaySettings
from aiia_serving.engines.packaged import is_prepared, prepared_folder
from aiia_serving.manager.board import Board
from aiia_serving.manager.timings import Timings
from aiia_serving.state import ModelState, State, Upstream

log = logging.getLogger(__name__)

_DRIVER_RETRY_S = 1.0
_REPORT_EVERY_S = 1.0
# Before anything was measured; on a small machine without a GPU.
_FIRST_GUESS_S = {"start": 60.0, "prepare": 40.0}


class LocalModels:
    """Keeps Serve's applications equal to the documents given to ``want``, for as long as ``run`` runs."""

    def __init__(self, board: Board, settings: RaySettings, timings: Timings) -> None:
        self._board = board
        self._settings = settings
        self._timings = timings
        self._documents: dict[str, ModelDocument] = {}
        self._prepared: set[str] = set()
        self._failures: dict[str, str] = {}
        self._preparing: dict[str, tuple[float, str, float]] = {}
        self._starting_since: dict[str, float] = {}
        self._reports: dict[str, dict[str, Any]] | None = None
        self._changed = asyncio.Event()
        self._wake_driver = asyncio.Event()

    def want(self, documents: Mapping[str, ModelDocument]) -> None:
        """From now on these documents, by name, are what should run."""
        if documents != self._documents:
            for name in self._documents.keys() | documents.keys():
                if self._documents.get(name) != documents.get(name):
                    self._failures.pop(name, None)
                    self._prepared.discard(name)
            self._documents = dict(documents)
            self._changed.set()
            self._wake_driver.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._prepare_all())
            tasks.create_task(self._drive())
            tasks.create_task(self._show())

    async def _prepare_all(self) -> None:
        while True:
            self._changed.clear()
            for name, document in list(self._documents.items()):
                if name not in self._prepared and name not in self._failures:
                    await self._prepare(document)
                    self._wake_driver.set()
            await self._changed.wait()

    async def _prepare(self, document: ModelDocument) -> None:
        package = document.spec.source.package
        if package is not None:
            try:
                if not is_prepared(prepared_folder(package, self._settings.model_cache)):
                    await self._convert(document.id, package)
            except (LookupError, OSError) as error:
                self._failures[document.id] = str(error)
                return
            finally:
                self._preparing.pop(document.id, None)
        if document.id not in self._failures:
            self._prepared.add(document.id)

    async def _convert(self, name: str, package: str) -> None:
        started = time.monotonic()
        self._preparing[name] = (0.0, "Preparing", started)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aiia_serving",
            "prepare",
            "--json",
            package,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        if process.stdout is None or process.stderr is None:
            raise OSError("no pipes to the converter")
        errors = asyncio.create_task(process.stderr.read())
        try:
            async for line in process.stdout:
                step = json.loads(line)
                self._preparing[name] = (step["progress"], step["reason"], started)
            if await process.wait():
                last = (await errors).decode(errors="replace").strip().splitlines()[-1:]
                self._failures[name] = f"Preparing the model failed: {last[0] if last else process.returncode}"
            else:
                self._timings.record(f"prepare:{package}", time.monotonic() - started)
        finally:
            if process.returncode is None:
                process.kill()

    async def _drive(self) -> None:
        while True:
            try:
                await self._drive_once()
            except (OSError, ValueError) as error:
                log.warning("driver failed", extra={"fields": {"error": str(error)}})
            # While Ray is away nothing runs, whatever was reported last.
            self._reports = None
            await asyncio.sleep(_DRIVER_RETRY_S)

    async def _drive_once(self) -> None:
        if not await self._ray_listens():
            return
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aiia_serving.manager.driver",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=16 * 1024 * 1024,
        )
        if process.stdin is None or process.stdout is None:
            raise OSError("no pipes to the driver")
        reading = asyncio.create_task(self._read_reports(process.stdout))
        told: list[dict[str, Any]] | None = None
        try:
            while not reading.done():
                self._wake_driver.clear()
                wanted = self._applications()
                if wanted != told:
                    process.stdin.write(json.dumps({"applications": wanted}).encode() + b"\n")
                    await process.stdin.drain()
                    told = wanted
                waking = asyncio.create_task(self._wake_driver.wait())
                await asyncio.wait({reading, waking}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
        finally:
            reading.cancel()
            process.stdin.close()
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _ray_listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._settings.ray_port)
        except OSError:
            return False
        writer.close()
        return True

    async def _read_reports(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            self._reports = json.loads(line)["applications"]
            await self._show_once()

    def _applications(self) -> list[dict[str, Any]]:
        return [
            vllm.application(document, self._settings.model_cache)
            for name, document in sorted(self._documents.items())
            if name in self._prepared
        ]

    async def _show(self) -> None:
        while True:
            await self._show_once()
            await asyncio.sleep(_REPORT_EVERY_S)

    async def _show_once(self) -> None:
        gone = self._shown() - self._documents.keys()
        for name in gone:
            report = (self._reports or {}).get(name)
            state = self._board.get(name)
            if report is None or state is None:
                self._starting_since.pop(name, None)
                await self._board.drop(name)
            else:
                draining = {"state": State.DRAINING, "reason": "Finishing its last requests", "eta_s": None}
                await self._board.put(state.model_copy(update=draining))
        for document in self._documents.values():
            await self._board.put(self._state(document))

    def _shown(self) -> set[str]:
        return {model.id for model in self._board.report().models if model.engine == "vllm"}

    def _state(self, document: ModelDocument) -> ModelState:
        name = document.id
        report = (self._reports or {}).get(name)
        running = int(report["running"]) if report else 0
        state, reason, progress, eta_s = self._phase(document, report, running)
        options = document.spec.vllm
        return ModelState(
            id=name,
            task=document.spec.task,
            engine=document.spec.engine,
            title=document.title,
            state=state,
            reason=reason,
            progress=None if progress is None else round(progress, 2),
            eta_s=None if eta_s is None else round(eta_s),
            upstream=Upstream(base_url=f"http://127.0.0.1:{self._settings.serve_port}/{name}/v1", model=name),
            max_model_len=options.max_model_len if options else None,
            max_in_flight=document.spec.scaling.max_in_flight * max(1, running),
            exact_continuation=True,
        )

    def _phase(
        self, document: ModelDocument, report: dict[str, Any] | None, running: int
    ) -> tuple[State, str | None, float | None, float | None]:
        """State, reason, progress and estimate in seconds."""
        name = document.id
        if name in self._failures:
            return State.FAILED, self._failures[name], None, None
        if name in self._preparing:
            progress, reason, started = self._preparing[name]
            usual = self._usual("prepare", f"prepare:{document.spec.source.package}")
            # Between two steps time itself is what moves.
            elapsed = time.monotonic() - started
            progress = max(progress, min(0.95, elapsed / usual))
            left = max(1.0, usual - elapsed) + self._usual("start", f"start:{name}")
            return State.DOWNLOADING, reason, progress, left
        if running:
            if (since := self._starting_since.pop(name, None)) is not None:
                self._timings.record(f"start:{name}", time.monotonic() - since)
            return State.READY, None, None, None
        if report is not None and report["status"] == "DEPLOY_FAILED":
            self._starting_since.pop(name, None)
            return State.FAILED, _short(report["message"]), None, None
        elapsed = time.monotonic() - self._starting_since.setdefault(name, time.monotonic())
        usual = self._usual("start", f"start:{name}")
        reason = "Waiting for Ray" if self._reports is None else "Loading the model"
        return State.STARTING, reason, min(0.95, elapsed / usual), max(1.0, usual - elapsed)

    def _usual(self, kind: str, name: str) -> float:
        return self._timings.get(name) or _FIRST_GUESS_S[kind]


def _short(message: str) -> str:
    """The end of a long report: where Python says what was wrong."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return " ".join(lines)[-400:] or "The model could not be deployed; Ray's log says why."
