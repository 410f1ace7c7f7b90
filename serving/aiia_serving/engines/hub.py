"""Downloads from the Hugging Face hub: once per cache, resumed where they broke off, and checked."""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from aiia_serving.engines.files import Progress, complete, gigabytes, is_complete, require_space

_AT_A_TIME = 4
_CHUNK_BYTES = 1024 * 1024
_TRIES = 5
_REPORT_EVERY_S = 0.5


@dataclass(frozen=True)
class HubModel:
    """A repository of the hub at a revision."""

    repository: str
    revision: str = "main"

    def folder(self, cache: Path) -> Path:
        """Where its files belong."""
        name = f"{self.repository}@{self.revision}".replace("/", "--")
        return cache / "hub" / name


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    sha256: str | None


def download(model: HubModel, cache: Path, progress: Progress) -> Path:
    """The folder of the model's files; at once if they are there.

    Several processes may call this at a time: one downloads, the others wait for it. A killed one's files are kept and
    completed by the next. Raises ``LookupError`` or ``OSError`` with what is wrong and what to do.
    """
    folder = model.folder(cache)
    if is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not is_complete(folder):
            _download(model, folder, progress)
    return folder


def wanted(names: Iterable[str]) -> list[str]:
    """Of a repository's files those that an engine loads: one form of the weights, no other framework's."""
    kept = [
        name
        for name in names
        if name.endswith(_ENDINGS) and not name.startswith(_OTHER_FORMS) and not Path(name).name.startswith(".")
    ]
    safetensors = [name for name in kept if name.endswith(".safetensors")]
    # Mistral's own layout of the same weights.
    sharded = [name for name in safetensors if not Path(name).name.startswith("consolidated")]
    if sharded:
        kept = [name for name in kept if name in sharded or not name.endswith(".safetensors")]
    if safetensors:
        kept = [name for name in kept if not name.endswith(_PICKLED)]
    if "model_index.json" in kept:
        kept = _of_pipeline(kept)
    return sorted(kept)


def _of_pipeline(names: list[str]) -> list[str]:
    """Of an image pipeline's files those of its parts: no file of all parts, no second precision, no censor."""

    def is_plain(name: str) -> bool:
        return Path(name).name.count(".") == 1

    complete = {Path(name).parent for name in names if name.endswith(".safetensors") and is_plain(name)}
    return [
        name
        for name in names
        if not name.endswith(".safetensors")
        or (
            Path(name).parent.name not in ("", "safety_checker", "image_encoder")
            and (is_plain(name) or Path(name).parent not in complete)
        )
    ]


_PICKLED = (".bin", ".pt", ".pth")
_ENDINGS = (".safetensors", ".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".vocab", ".merges", *_PICKLED)
_OTHER_FORMS = ("original/", "metal/", "onnx/", "openvino/", "coreml/", "tf_", "flax_", "training_args", "optimizer")


def _download(model: HubModel, folder: Path, progress: Progress) -> None:
    from huggingface_hub import HfApi

    progress(0.0, f"Asking the hub for {model.repository}")
    with _in_words(model):
        info = HfApi().model_info(model.repository, revision=model.revision, files_metadata=True)
    by_name = {entry.rfilename: entry for entry in info.siblings or []}
    files = [
        _File(name, by_name[name].size or 0, by_name[name].lfs.sha256 if by_name[name].lfs else None)
        for name in wanted(by_name)
    ]
    if not any(file.name.endswith((".safetensors", *_PICKLED)) for file in files):
        raise LookupError(f"{model.repository} has no weights that an engine here loads (safetensors)")
    commit = str(info.sha)
    partial = folder.with_name(f"{folder.name}.partial-{commit[:12]}")
    for other in folder.parent.glob(f"{folder.name}.partial-*"):
        if other != partial:
            shutil.rmtree(other, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    _Transfer(model, commit, files, partial, progress).run()
    facts = {"repository": model.repository, "revision": model.revision, "commit": commit}
    complete(partial, folder, facts)
    progress(1.0, "Ready")


class _Transfer:
    """The files of one commit on their way into a folder."""

    def __init__(self, model: HubModel, commit: str, files: list[_File], partial: Path, progress: Progress) -> None:
        self._model = model
        self._commit = commit
        self._files = files
        self._partial = partial
        self._progress = progress
        self._total = sum(file.size for file in files)
        self._done = sum(self._present(file) for file in files)
        self._lock = threading.Lock()
        self._gone_wrong = threading.Event()

    def run(self) -> None:
        require_space(self._partial, self._total - self._done)
        at_first, since = self._done, time.monotonic()
        with ThreadPoolExecutor(_AT_A_TIME) as pool, _in_words(self._model):
            pending = [pool.submit(self._fetch, file) for file in self._files]
            try:
                for job in pending:
                    while not job.done():
                        self._report(at_first, time.monotonic() - since)
                        time.sleep(_REPORT_EVERY_S)
                    job.result()
            except BaseException:
                self._gone_wrong.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _report(self, at_first: int, elapsed: float) -> None:
        rate = (self._done - at_first) / elapsed if elapsed > 1 else 0
        eta_s = (self._total - self._done) / rate if rate else None
        reason = f"Downloading {gigabytes(self._done)} of {gigabytes(self._total)}"
        self._progress(0.99 * self._done / max(1, self._total), reason, eta_s)

    def _present(self, file: _File) -> int:
        for path in (self._partial / file.name, self._part(file)):
            if path.is_file():
                return min(path.stat().st_size, file.size)
        return 0

    def _part(self, file: _File) -> Path:
        return self._partial / f"{file.name}.part"

    def _fetch(self, file: _File) -> None:
        target, part = self._partial / file.name, self._part(file)
        if target.is_file():
            return
        part.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(_TRIES):
            try:
                self._continue(file, part)
                break
            except Exception as error:
                if not _passes(error) or attempt == _TRIES - 1 or self._gone_wrong.is_set():
                    raise
                time.sleep(2**attempt / 2)
        if part.stat().st_size != file.size or (file.sha256 and _sha256(part) != file.sha256):
            part.unlink()
            raise OSError(f"{file.name} of {self._model.repository} did not arrive as the hub describes it; try again")
        part.rename(target)

    def _continue(self, file: _File, part: Path) -> None:
        """Appends what is missing of a file."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        have = part.stat().st_size if part.exists() else 0
        if have > 0 and have == file.size:
            return
        url = hf_hub_url(self._model.repository, file.name, revision=self._commit)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as answer:
            hf_raise_for_status(answer)
            resumed = answer.status_code == 206
            if have and not resumed:
                self._count(-have)
            with part.open("ab" if resumed else "wb") as output:
                for chunk in answer.iter_bytes(_CHUNK_BYTES):
                    if self._gone_wrong.is_set():
                        return
                    output.write(chunk)
                    self._count(len(chunk))

    def _count(self, size: int) -> None:
        with self._lock:
            self._done += size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _passes(error: Exception) -> bool:
    """Whether it may be otherwise a moment later."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = int(error.response.status_code)
        return status == 429 or status >= 500
    return isinstance(error, _transport_errors())


def _transport_errors() -> type[Exception]:
    """What the hub's library raises when a connection fails or ends early."""
    import httpx2

    error: type[Exception] = httpx2.TransportError
    return error


class _in_words:  # noqa: N801  # reads as a statement
    """Turns the hub's errors into what is wrong and what to do."""

    def __init__(self, model: HubModel) -> None:
        self._model = model

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        name, token = self._model.repository, bool(os.environ.get("HF_TOKEN"))
        place = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        if isinstance(error, GatedRepoError):
            how = (
                "with the account that HF_TOKEN belongs to" if token else "and set HF_TOKEN to a token of your account"
            )
            raise LookupError(f"{name} is gated: accept its conditions at {place}/{name} {how}") from error
        if isinstance(error, RevisionNotFoundError):
            raise LookupError(f"{name} has no revision {self._model.revision} at {place}") from error
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            status = error.response.status_code
            if token and status in (401, 403):
                raise LookupError(
                    f"{place} does not take the token in HF_TOKEN for {name}: make a new one at {place}/settings/tokens"
                ) from error
            if isinstance(error, RepositoryNotFoundError):
                raise LookupError(
                    f"there is no model {name} at {place}, or it is private: correct source.huggingface, or set"
                    " HF_TOKEN to a token that may read it"
                ) from error
            raise OSError(f"{place} answers with {status} for {name}; it is tried again when asked") from error
        if isinstance(error, _transport_errors()):
            raise OSError(
                f"{place} cannot be reached ({error}): check the network, set HF_ENDPOINT to a mirror, or put the files"
                " into a folder and name it as source.path"
            ) from error
