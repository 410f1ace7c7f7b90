"""The shape of a Model document."""

from typing import Literal

from pydantic import Field, HttpUrl, model_validator

from aiia_serving.catalogue.options import (
    Adapter,
    DiffusersOptions,
    EmbeddingOptions,
    ImageModel,
    RerankOptions,
    VllmOptions,
)
from aiia_serving.catalogue.part import Folder, Name, Part, Repository, Revision

_TASKS = {
    "vllm": {"chat"},
    "embedding": {"embedding"},
    "rerank": {"rerank"},
    "diffusers": {"image"},
    "openai": {"chat", "embedding", "rerank"},
}
_OPTIONS = {
    "vllm": "vllm",
    "sampling": "vllm",
    "embedding": "embedding",
    "rerank": "rerank",
    "diffusers": "diffusers",
}


class Metadata(Part):
    """Kubernetes' own metadata; the name is the model's id in the API."""

    name: Name
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Source(Part):
    """Where the model comes from: exactly one of the ways. ``url`` is OpenAI's base URL of a remote endpoint."""

    package: str | None = Field(default=None, description="A Python package that carries the weights, installed here")
    huggingface: Repository | None = None
    revision: Revision = "main"
    path: Folder | None = None
    url: HttpUrl | None = Field(default=None, description="Base URL of an OpenAI-compatible endpoint, ending with /v1")
    model: str | None = Field(default=None, description="The name at that endpoint, if it differs from this document's")
    api_key_env: str | None = Field(default=None, description="The environment variable that holds the endpoint's key")

    @model_validator(mode="after")
    def _one_way(self) -> "Source":
        ways = [name for name in ("package", "huggingface", "path", "url") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise ValueError(f"exactly one of package, huggingface, path, url is wanted, not {ways or 'none'}")
        return self


class Resources(Part):
    """What one replica takes."""

    gpus: int = Field(default=0, ge=0)
    accelerator_type: str | None = Field(default=None, description="Such as L4 or H100; also picks the engine's preset")


class Scaling(Part):
    """How many replicas, and how many requests each has in flight."""

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    max_in_flight: int = Field(
        default=32, ge=1, description="Requests in flight per replica; the others wait in the queue"
    )
    target_wait_s: float = Field(
        default=10, gt=0, description="Another replica starts when the waiting work takes longer than these seconds"
    )
    scale_down_after_s: float = Field(default=300, ge=0, description="Seconds of less work before one ends")
    scale_to_zero_after_s: float = Field(
        default=900, ge=0, description="Seconds without a request before the last ends"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Scaling":
        if self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas is greater than maxReplicas")
        return self


class Routing(Part):
    """Which of several replicas takes a request."""

    affinity: Literal["none", "session"] = Field(
        default="session",
        description="session: a conversation stays at the replica that has computed its beginning; none: in turn",
    )


class Sampling(Part):
    """How the model picks tokens where a request does not say, by the names of a generation config."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="Tokens of one answer at most, whatever is asked"
    )


class Spec(Part):
    """What is wanted."""

    title: str | None = Field(default=None, description="The name that people see")
    task: Literal["chat", "embedding", "rerank", "image"]
    engine: Literal["vllm", "embedding", "rerank", "diffusers", "openai"]
    source: Source
    resources: Resources = Resources()
    scaling: Scaling = Scaling()
    routing: Routing = Routing()
    sampling: Sampling | None = None
    vllm: VllmOptions | None = None
    embedding: EmbeddingOptions | None = None
    rerank: RerankOptions | None = None
    diffusers: DiffusersOptions | None = None

    @model_validator(mode="after")
    def _fits_the_engine(self) -> "Spec":
        remote = self.source.url is not None
        if remote != (self.engine == "openai"):
            raise ValueError("source.url belongs to the engine openai, and only to it")
        if self.task not in _TASKS[self.engine]:
            able = ", ".join(sorted(_TASKS[self.engine]))
            raise ValueError(f"the engine {self.engine} cannot do the task {self.task}, but {able}")
        for part, engine in _OPTIONS.items():
            if getattr(self, part) is not None and self.engine != engine:
                raise ValueError(f"the options under {part} belong to the engine {engine}")
        return self

    @model_validator(mode="after")
    def _fits_the_gpus(self) -> "Spec":
        gpus, options = self.resources.gpus, self.vllm
        if options is None:
            return self
        if options.sleep and gpus == 0:
            raise ValueError("vllm.sleep: only a model on GPUs can sleep; resources.gpus is 0")
        parallel = (options.tensor_parallel_size or 1) * (options.pipeline_parallel_size or 1)
        said = options.tensor_parallel_size is not None or options.pipeline_parallel_size is not None
        if said and parallel != max(1, gpus):
            raise ValueError(
                f"vllm.tensorParallelSize times vllm.pipelineParallelSize is {parallel}, but resources.gpus is {gpus}"
            )
        return self


class ModelDocument(Part):
    """One wanted model."""

    api_version: Literal["aiia.dev/v1"]
    kind: Literal["Model"]
    metadata: Metadata
    spec: Spec

    @property
    def id(self) -> str:
        return self.metadata.name

    @property
    def title(self) -> str:
        return self.spec.title or self.metadata.name

    @property
    def beside(self) -> tuple[Adapter | ImageModel, ...]:
        """The further models, each of its own name, on this one's replicas: LoRA adapters, image models."""
        if self.spec.diffusers is not None:
            return self.spec.diffusers.models
        return self.spec.vllm.loras if self.spec.vllm else ()
