"""vLLM models as Ray Serve applications."""

import math
from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.machine import gpus
from aiia_serving.catalogue.options import VllmOptions
from aiia_serving.engines import presets, store
from aiia_serving.queue import EXPRESS
from aiia_serving.tracing import traces_endpoint

# What becomes of these is more than an engine argument of the same name.
_NOT_ARGUMENTS = {"sleep", "loras", "cpu_kv_cache_gb", "cpu_threads", "engine_args"}
_LONGEST_ANSWER_S = 3600


def application(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """See ``aiia_serving.engines.application``."""
    return {
        "name": document.id,
        "route_prefix": f"/{document.id}",
        "logging_config": {"encoding": "JSON"},
        "import_path": "aiia_serving.engines.vllm:build",
        "args": {"llm_config": llm_config(document, cache), "affinity": document.spec.routing.affinity},
    }


def replica_environment(document: ModelDocument) -> dict[str, str]:
    """Variables of the replica's process; Ray keys its worker processes by them."""
    environment = {"AIIA_PRELOAD": "vllm", "HF_HUB_OFFLINE": "1"}
    options = document.spec.vllm or VllmOptions()
    if not document.spec.resources.gpus:
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": str(options.cpu_kv_cache_gb),
            # More threads than free cores are many times slower than one.
            "OMP_NUM_THREADS": str(options.cpu_threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    if traces_endpoint():
        environment |= {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_SERVICE_NAME": document.id}
    return environment


def engine_arguments(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """vLLM's arguments: those of the GPU's preset, above them the document's."""
    spec, options = document.spec, document.spec.vllm or VllmOptions()
    engine = presets.options_for(_accelerator(document))
    if "max_num_seqs" in engine:
        # What the queue lets in must not wait once more where nobody ages.
        engine["max_num_seqs"] = max(engine["max_num_seqs"], math.ceil(spec.scaling.max_in_flight * (1 + EXPRESS)))
    # The gateway orders what waits in the engine, too; vLLM takes the lower number first. And it counts cache hits.
    engine |= {"disable_log_stats": False, "scheduling_policy": "priority", "enable_prompt_tokens_details": True}
    engine["scheduler_cls"] = "aiia_serving.engines.scheduler.prompts_in_order"
    if (endpoint := traces_endpoint()) is not None:
        engine["otlp_traces_endpoint"] = endpoint
    engine |= options.model_dump(exclude_none=True, exclude=_NOT_ARGUMENTS) | options.engine_args
    if spec.resources.gpus > 1:
        engine.setdefault("tensor_parallel_size", spec.resources.gpus // engine.get("pipeline_parallel_size", 1))
    if options.tool_call_parser:
        engine["enable_auto_tool_choice"] = True
    if options.sleep:
        engine["enable_sleep_mode"] = True
    if options.loras:
        engine["enable_lora"] = True
        engine.setdefault("max_loras", len(options.loras))
        engine["lora_modules"] = [
            {"name": adapter.name, "path": str(store.adapter_folder(adapter.source, cache))}
            for adapter in options.loras
        ]
    if spec.sampling is not None:
        engine["override_generation_config"] = spec.sampling.model_dump(exclude_none=True)
    return engine


def llm_config(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """The model as a ``ray.serve.llm.LLMConfig``."""
    spec = document.spec
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": document.id, "model_source": str(store.folder(document, cache))},
        "engine_kwargs": engine_arguments(document, cache),
        "server_cls": "aiia_serving.engines.vllm_server:Server",
        # Ray's own metrics would take the place of vLLM's, which say what each engine is doing.
        "log_engine_metrics": False,
        "runtime_env": {"env_vars": replica_environment(document)},
        "callback_config": {"callback_class": "aiia_serving.engines.vllm_server.LocalFiles"},
        "deployment_config": {
            "num_replicas": max(1, spec.scaling.min_replicas),
            "max_ongoing_requests": 1_000_000,
            "health_check_period_s": 1,
            "health_check_timeout_s": 30,
            "graceful_shutdown_timeout_s": _LONGEST_ANSWER_S,
        },
    }
    if spec.resources.gpus == 0:
        config["accelerator_config"] = {"kind": "cpu"}
    # Ray knows short names only; others still pick the preset.
    elif spec.resources.accelerator_type and " " not in spec.resources.accelerator_type:
        config["accelerator_type"] = spec.resources.accelerator_type
    return config


def build(args: dict[str, Any]) -> Any:
    """Serve's builder: runs in a task of the cluster, where Ray's LLM library may be imported."""
    from ray.serve.config import RequestRouterConfig
    from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
    from ray.serve.llm import LLMConfig, build_openai_app

    config = LLMConfig.model_validate(args["llm_config"])
    if args["affinity"] == "session":
        config.deployment_config["request_router_config"] = RequestRouterConfig(
            request_router_class=ConsistentHashRouter
        )
    return build_openai_app({"llm_configs": [config]})


def _accelerator(document: ModelDocument) -> str:
    resources = document.spec.resources
    if not resources.gpus:
        return presets.CPU
    return resources.accelerator_type or next((gpu.name for gpu in gpus()), "")
