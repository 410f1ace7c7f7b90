"""How a document becomes an application of Serve, and what is known of a model before it runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from aiia_serving import engines
from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines import capabilities, presets, store
from aiia_serving.engines.vllm import engine_arguments, replica_environment

pytestmark = pytest.mark.unit


def document(**spec: Any) -> ModelDocument:
    whole = {"task": "chat", "engine": "vllm", "source": {"path": "/models/it"}} | spec
    return ModelDocument.model_validate(
        {"apiVersion": "aiia.dev/v1", "kind": "Model", "metadata": {"name": "it"}, "spec": whole}
    )


def arguments(**spec: Any) -> dict[str, Any]:
    return engine_arguments(document(**spec), Path("/cache"))


def test_the_presets_of_gpus_lie_below_the_document() -> None:
    resources = {"gpus": 1, "acceleratorType": "L4"}
    assert arguments(resources=resources)["max_num_seqs"] == 64
    said = arguments(resources=resources, vllm={"maxNumSeqs": 7, "engineArgs": {"stream_interval": 2}})
    assert (said["max_num_seqs"], said["max_num_batched_tokens"], said["stream_interval"]) == (7, 4096, 2)
    assert arguments()["enforce_eager"] is True


def test_the_engine_takes_at_once_all_that_the_queue_lets_in() -> None:
    resources = {"gpus": 1, "acceleratorType": "L4"}
    assert arguments(resources=resources, scaling={"maxInFlight": 64})["max_num_seqs"] == 72


@pytest.mark.parametrize(
    ("name", "sequences"),
    [
        ("NVIDIA H100 80GB HBM3", 512),
        ("NVIDIA L40S", 256),
        ("NVIDIA L4", 64),
        ("NVIDIA A100-SXM4-80GB", 384),
        ("NVIDIA GeForce RTX 4090", 64),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(name: str, sequences: int | None) -> None:
    assert presets.options_for(name).get("max_num_seqs") == sequences


def test_gpus_are_shared_out() -> None:
    assert arguments(resources={"gpus": 4})["tensor_parallel_size"] == 4
    parallel = {"tensorParallelSize": 2, "pipelineParallelSize": 2}
    assert arguments(resources={"gpus": 4}, vllm=parallel)["tensor_parallel_size"] == 2
    assert "tensor_parallel_size" not in arguments()


def test_adapters_are_models_of_the_same_engine() -> None:
    loras = [{"name": "poet", "source": {"huggingface": "org/poet"}}, {"name": "clerk", "source": {"path": "/clerk"}}]
    found = arguments(vllm={"loras": loras})
    assert found["enable_lora"] is True
    assert found["max_loras"] == 2
    assert found["lora_modules"] == [
        {"name": "poet", "path": "/cache/hub/org--poet@main"},
        {"name": "clerk", "path": "/clerk"},
    ]
    assert store.sources(document(vllm={"loras": loras})) == ["huggingface:org/poet@main"]


def test_without_a_gpu_memory_and_threads_are_bounded() -> None:
    environment = replica_environment(document(vllm={"cpuKvCacheGb": 4, "cpuThreads": 6}))
    assert (environment["VLLM_CPU_KVCACHE_SPACE"], environment["OMP_NUM_THREADS"]) == ("4", "6")
    assert "OMP_NUM_THREADS" not in replica_environment(document(resources={"gpus": 1}))


def test_tools_priority_and_sleep() -> None:
    found = arguments(resources={"gpus": 1}, vllm={"toolCallParser": "hermes", "sleep": True})
    assert found["enable_auto_tool_choice"] is True
    assert found["enable_sleep_mode"] is True
    assert found["scheduling_policy"] == "priority"
    assert found["scheduler_cls"] == "aiia_serving.engines.scheduler.prompts_in_order"
    assert arguments(vllm={"engineArgs": {"scheduler_cls": None}})["scheduler_cls"] is None


def test_an_application_of_each_engine() -> None:
    for task in ("chat", "embedding", "rerank"):
        engine = "vllm" if task == "chat" else task
        application = engines.application(document(task=task, engine=engine), Path("/cache"))
        assert (application["name"], application["route_prefix"]) == ("it", "/it")
        # It travels as JSON.
        assert json.loads(json.dumps(application)) == application


def write(folder: Path, **files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_what_a_model_can_do_is_read_from_its_files(tmp_path: Path) -> None:
    seeing = document(source={"path": str(tmp_path)}, vllm={"toolCallParser": "hermes", "reasoningParser": "qwen3"})
    write(tmp_path, config={"vision_config": {}, "text_config": {"max_position_embeddings": 8192}})
    assert {"chat", "completions", "json_schema", "tools", "reasoning", "vision"} <= set(
        capabilities.of(seeing, tmp_path)
    )
    assert capabilities.max_model_len(seeing, tmp_path) == 8192
    shorter = document(source={"path": str(tmp_path)}, vllm={"maxModelLen": 100})
    assert capabilities.max_model_len(shorter, tmp_path) == 100


def test_the_length_of_an_embedding_model(tmp_path: Path) -> None:
    model = document(task="embedding", engine="embedding", source={"path": str(tmp_path)})
    assert capabilities.max_model_len(model, tmp_path) is None
    write(tmp_path, config={"max_position_embeddings": 512}, sentence_bert_config={"max_seq_length": 256})
    assert capabilities.max_model_len(model, tmp_path) == 256
    assert capabilities.of(model, tmp_path) == ("embeddings",)


def test_a_remote_model_has_no_files() -> None:
    remote = document(task="rerank", engine="openai", source={"url": "https://example.org/v1"})
    assert capabilities.of(remote, Path("/cache")) == ("rerank",)
    assert capabilities.max_model_len(remote, Path("/cache")) is None
