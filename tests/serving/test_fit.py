"""Which ready models machines of different kinds can hold, and the documents that come of it."""

from pathlib import Path

import pytest

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.fit import Fit, document_for, fit, fits
from aiia_serving.catalogue.machine import Gpu, Machine, parse_gpus, this_machine
from aiia_serving.catalogue.ready import entries

pytestmark = pytest.mark.unit

GB = 10**9


def machine(*gpus: int, memory: int = 64, disk: int = 1000) -> Machine:
    """With GPUs of these sizes, in GB."""
    return Machine(tuple(Gpu("NVIDIA L4", size * GB) for size in gpus), memory * GB, disk * GB, 8)


def way(model: str, on: Machine) -> Fit:
    return fit(entries()[model], on)


def test_the_first_real_model_on_usual_gpus() -> None:
    on_l4 = way("qwen3-8b", machine(24))
    assert (on_l4.fits, on_l4.precision, on_l4.gpus) == (True, "bf16", 1)
    assert 8192 <= on_l4.max_model_len < 40960
    assert way("qwen3-8b", machine(80)).max_model_len == 40960
    assert way("qwen3-8b", machine(16)).precision == "fp8"
    assert way("qwen3-8b", machine(12)).precision == "int4"
    assert way("llama-3.3-70b", machine(80, 80)).gpus == 1
    assert way("llama-3.3-70b", machine(48, 48)).gpus == 2
    assert way("gpt-oss-20b", machine(24)).fits


def test_more_memory_never_holds_less() -> None:
    for entry in entries().values():
        lengths = [
            found.max_model_len for size in (8, 16, 24, 48, 80, 141) if (found := fit(entry, machine(size))).fits
        ]
        by_precision = [fit(entry, machine(size)).precision for size in (8, 16, 24, 48, 80, 141)]
        order = [list(entry.precisions).index(precision) for precision in by_precision]
        assert order == sorted(order, reverse=True), entry.id
        assert all(length >= min(4096, entry.context) for length in lengths)


def test_what_does_not_fit_says_how_much_and_what_to_take() -> None:
    reasons = {entry.id: found.reason or "" for entry, found in fits(machine(8)) if not found.fits}
    assert reasons["qwen3-32b"].startswith("needs 26.5 GB of GPU memory, this machine has 8.0 GB; try qwen3-")
    reasons = {entry.id: found.reason or "" for entry, found in fits(machine(24, 24)) if not found.fits}
    assert "this machine has 2 GPUs of 24.0 GB" in reasons["gpt-oss-120b"]


def test_without_a_gpu_small_models_run_and_the_reason_says_slowly() -> None:
    small = way("qwen3-0.6b", machine())
    assert (small.fits, small.gpus, small.reason) == (True, 0, "runs without a GPU, slowly")
    assert way("bge-m3", machine()).fits
    assert "needs a GPU" in (way("qwen3-8b", machine()).reason or "")
    assert "of memory, this machine has 4.0 GB" in (way("qwen3-1.7b", machine(memory=4)).reason or "")


def test_a_full_disk_counts() -> None:
    found = way("qwen3-8b", machine(80, disk=10))
    assert not found.fits
    assert found.reason == "its download takes 16.4 GB, and 10.0 GB of disk are free"


@pytest.mark.parametrize("on", [machine(), machine(8), machine(24), machine(80, 80)])
def test_every_entry_becomes_a_valid_document(on: Machine) -> None:
    for entry in entries().values():
        document = ModelDocument.model_validate(document_for(entry, on))
        assert document.id == entry.id
        assert document.spec.resources.gpus == (fit(entry, on).gpus if entry.task == "chat" else 0)
        assert document.spec.source.huggingface in entry.precisions.values()


def test_the_models_people_ask_for_are_there() -> None:
    assert {
        "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b", "qwen3-30b-a3b",
        "llama-3.1-8b", "llama-3.2-1b", "llama-3.2-3b", "llama-3.3-70b", "gemma-3-1b", "gemma-3-4b", "gemma-3-12b",
        "gemma-3-27b", "mistral-7b", "mistral-small-24b", "mistral-nemo-12b", "gpt-oss-20b", "gpt-oss-120b",
        "bge-small-en", "bge-base-en", "bge-large-en", "bge-m3", "bge-reranker-base", "bge-reranker-v2-m3",
    } == set(entries())  # fmt: skip


def test_gpus_are_read_from_the_drivers_words() -> None:
    assert parse_gpus("NVIDIA L4, 23034\nNVIDIA H100 80GB HBM3, 81559\n") == (
        Gpu("NVIDIA L4", 23034 * 1024**2),
        Gpu("NVIDIA H100 80GB HBM3", 81559 * 1024**2),
    )
    assert parse_gpus("NVIDIA GB10, [N/A]\n") == ()


def test_this_machine_is_described(tmp_path: Path) -> None:
    found = this_machine(tmp_path / "not" / "there" / "yet")
    assert found.memory_bytes > GB
    assert found.disk_free_bytes > 0
    assert found.cpu_count >= 1
    assert set(found.as_dict()) == {"gpus", "memory_bytes", "disk_free_bytes", "cpu_count"}
