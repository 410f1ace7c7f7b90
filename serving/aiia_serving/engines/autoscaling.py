"""The autoscaling policy of Ray Serve, which runs inside Serve's controller, and how a model gets it."""

import time
from pathlib import Path
from typing import Any

from aiia_serving.autoscaling.decision import Rules, Scaler
from aiia_serving.catalogue.document import ModelDocument, Scaling


def scaled_application(document: ModelDocument, cache: Path, rules: Rules) -> dict[str, Any]:
    """The entry of a local model in Serve's declarative configuration, its replicas by ``rules``.

    Other bounds alone leave its replicas running. Raises ``LookupError`` for a package that is not known.
    """
    from aiia_serving import engines

    # Whatever is different in an application's arguments makes Serve replace all its replicas.
    neutral = document.model_copy(update={"spec": document.spec.model_copy(update={"scaling": Scaling()})})
    return engines.application(neutral, cache) | {"deployments": [scaled(document, rules)]}


def scaled(document: ModelDocument, rules: Rules) -> dict[str, Any]:
    """Serve's ``DeploymentSchema`` that lays ``rules`` over the model's deployment."""
    # The policy's arguments must stay when the bounds change, or Serve replaces the replicas.
    times = {name: value for name, value in vars(rules).items() if name not in ("min_replicas", "max_replicas")}
    # Ray's LLM library allows no dots in the name.
    name = document.id.replace(".", "_") if document.spec.engine == "vllm" else document.id
    return {
        "name": f"Server:{name}",
        "num_replicas": "auto",
        "autoscaling_config": {
            "min_replicas": rules.min_replicas,
            "max_replicas": rules.max_replicas,
            # The policy has its own times.
            "upscale_delay_s": 0,
            "downscale_delay_s": 0,
            "downscale_to_zero_delay_s": 0,
            "policy": {
                "policy_function": "aiia_serving.engines.autoscaling:QueuedWork",
                "policy_kwargs": {"queue": document.id, "times": times},
            },
        },
    }


class QueuedWork:
    """A policy of Serve's: replicas by the seconds of work in the gateway's queue.

    Serve calls it several times a second. While the gateway does not answer, the number of replicas stays.
    """

    def __init__(self, queue: str, times: dict[str, Any]) -> None:
        # Imported here, because Serve copies this module into its controller and a copy would poll for itself.
        from aiia_serving.autoscaling.demand import demands

        self._queue = queue
        self._times = times
        self._scaler = Scaler()
        self._demands = demands()

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The number of replicas for Serve's ``AutoscalingContext``, and no state of Serve's."""
        rules = Rules(context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas, **self._times)
        current = rules.clamp(context.target_num_replicas)
        if rules.min_replicas == rules.max_replicas:
            return current, {}
        demand = self._demands.get(self._queue)
        return current if demand is None else self._scaler.decide(demand, current, rules, time.monotonic()), {}
