"""Files of weights, looked at before anything is loaded: safetensors alone, whole, and what is in them."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter

from aiia_serving.images.problem import ImageProblem

MAX_HEADER = 100_000_000
_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)

    dtype: str
    shape: list[NonNegativeInt]
    data_offsets: Annotated[list[NonNegativeInt], Field(min_length=2, max_length=2)]


_ENTRIES = TypeAdapter(dict[str, _Entry])


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, by name. Reads its header only. Raises ImageProblem for any other file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            text = file.read(length) if 8 + length <= size and length <= MAX_HEADER else b""
    except OSError as error:
        raise _bad(path, f"can't be read: {error.strerror}") from error
    if not text.startswith(b"{"):
        raise _bad(path, _what(path, start))
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = _ENTRIES.validate_python(header)
    except (ValueError, RecursionError) as error:
        raise _bad(path, "has a damaged header") from error
    found = {name: Tensor(entry.dtype, tuple(entry.shape)) for name, entry in entries.items()}
    if not found:
        raise _bad(path, "holds no tensors")
    _whole(path, size - 8 - length, entries)
    return found


def files(path: Path) -> list[Path]:
    """A file itself, or a folder's weights, in one form of them."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.safetensors"))
    plain = [file for file in found if ".fp16." not in file.name]
    return plain or found


def check_whole(path: Path) -> None:
    """Raises ImageProblem unless a file, or a folder's weights, are there and whole."""
    found = files(path)
    if not found:
        raise _bad(path, "holds no safetensors file")
    for file in found:
        tensors(file)


def numbers(path: Path) -> int:
    """How many numbers the weights of a file or folder are."""
    return sum(prod(tensor.shape) for file in files(path) for tensor in tensors(file).values())


def _whole(path: Path, size: int, entries: dict[str, _Entry]) -> None:
    if max(entry.data_offsets[1] for entry in entries.values()) > size:
        raise _bad(path, "is torn: its end is missing; download it again")
    for entry in entries.values():
        start, end = entry.data_offsets
        width = _BYTES.get(entry.dtype)
        if width is not None and end - start != width * prod(entry.shape):
            raise _bad(path, "has a damaged header")


def _what(path: Path, start: bytes) -> str:
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS; the file itself was not downloaded"
    if head.startswith(b"PK") or head[:1] == b"\x80":
        return "holds pickled data, which can run code when it is loaded; convert it to safetensors"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not weights"
    if head.startswith(b"GGUF"):
        return "is a GGUF file; image models are loaded from safetensors"
    if path.suffix == ".safetensors":
        return "is torn or damaged: its header is not whole"
    return "is no safetensors file"


def _bad(path: Path, reason: str) -> ImageProblem:
    return ImageProblem(f"{path.name} {reason}.", code="bad_weights", status=422)
