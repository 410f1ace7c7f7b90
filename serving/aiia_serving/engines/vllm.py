"""vLLM models as Ray Serve applications."""

from pathlib import Path
from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines.packaged import prepared_folder

# One thread: two on busy cores are many times slower than one.
_CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_LONGEST_ANSWER_S = 600


def application(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """The entry of this model in Serve's declarative configuration (``ServeApplicationSchema``)."""
    return {
        "name": document.id,
        "route_prefix": f"/{document.id}",
        "import_path": "aiia_serving.engines.vllm:build",
        "args": {"llm_config": llm_config(document, cache)},
    }


def replica_environment(document: ModelDocument) -> dict[str, str]:
    """Variables of the replica's process; Ray keys its worker processes by them."""
    environment = {"AIIA_PRELOAD": "vllm"}
    if not document.spec.resources.gpus:
        environment |= _CPU_ENVIRONMENT
    if not document.spec.source.huggingface:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


def llm_config(document: ModelDocument, cache: Path) -> dict[str, Any]:
    """The model as a ``ray.serve.llm.LLMConfig``."""
    spec, options = document.spec, document.spec.vllm
    engine: dict[str, Any] = {"disable_log_stats": False}
    if options is not None:
        engine |= options.model_dump(exclude_none=True)
        if options.tool_call_parser:
            engine["enable_auto_tool_choice"] = True
    if spec.sampling is not None:
        engine["override_generation_config"] = spec.sampling.model_dump(exclude_none=True)
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": document.id, "model_source": _model_source(document, cache)},
        "engine_kwargs": engine,
        "server_cls": "aiia_serving.engines.vllm_server:Server",
        # Ray's own metrics would take the place of vLLM's, which say what each engine is doing.
        "log_engine_metrics": False,
        "runtime_env": {"env_vars": replica_environment(document)},
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
    elif spec.resources.accelerator_type:
        config["accelerator_type"] = spec.resources.accelerator_type
    if not spec.source.huggingface:
        config["callback_config"] = {"callback_class": "aiia_serving.engines.vllm_server.LocalFiles"}
    return config


def build(args: dict[str, Any]) -> Any:
    """Serve's builder: runs in a task of the cluster, where Ray's LLM library may be imported."""
    from ray.serve.llm import LLMConfig, build_openai_app

    return build_openai_app({"llm_configs": [LLMConfig.model_validate(args["llm_config"])]})


def _model_source(document: ModelDocument, cache: Path) -> str:
    source = document.spec.source
    if source.package:
        return str(prepared_folder(source.package, cache))
    return source.path or source.huggingface or ""
