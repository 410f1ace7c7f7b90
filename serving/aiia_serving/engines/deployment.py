"""What the applications of our own engines have in common: one deployment, with an HTTP application as its ingress."""

from typing import Any

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.tracing import traces_endpoint


def application(
    document: ModelDocument,
    import_path: str,
    args: dict[str, Any],
    *,
    threads: int,
    longest_answer_s: int,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """See ``aiia_serving.engines.application``. ``args`` go to the builder at ``import_path``, with the deployment."""
    spec = document.spec
    variables = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if (endpoint := traces_endpoint()) is not None:
        variables["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = endpoint
    actor: dict[str, Any] = {
        "num_gpus": spec.resources.gpus,
        "runtime_env": {"env_vars": variables | (environment or {})},
    }
    if spec.resources.gpus and spec.resources.accelerator_type and " " not in spec.resources.accelerator_type:
        actor["accelerator_type"] = spec.resources.accelerator_type
    return {
        "name": document.id,
        "route_prefix": f"/{document.id}",
        "logging_config": {"encoding": "JSON"},
        "import_path": import_path,
        "args": {
            "model": document.id,
            **args,
            "deployment": {
                "num_replicas": max(1, spec.scaling.min_replicas),
                "max_ongoing_requests": 1_000_000,
                "health_check_period_s": 1,
                "health_check_timeout_s": 30,
                "graceful_shutdown_timeout_s": longest_answer_s,
                "ray_actor_options": actor,
            },
        },
    }


def build(server: type, args: dict[str, Any], *bound: Any) -> Any:
    """What a builder returns: a deployment of ``server``, whose instances are made with ``bound``."""
    from ray import serve

    return serve.deployment(
        serve.ingress()(server), name=f"{server.__name__}:{args['model']}", **args["deployment"]
    ).bind(*bound)
