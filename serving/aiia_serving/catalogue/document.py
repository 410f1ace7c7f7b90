"""The shape of a Model document."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, model_validator
from pydantic.alias_generators import to_camel

# A Kubernetes object's name, because the document is one in a cluster.
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)


class Metadata(_Part):
    """Kubernetes' own metadata; the name is the model's id in the API."""

    name: Name
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Source(_Part):
    """Where the model comes from: exactly one of the ways. ``url`` is OpenAI's base URL of a remote endpoint."""

    package: str | None = Field(default=None, description="A Python package that carries the weights, installed here")
    huggingface: str | None = Field(
        None, description="A repository on the Hugging Face hub", pattern=r"^[\w.-]+/[\w.-]+$"
    )
    path: str | None = Field(default=None, description="A folder of the machine or volume", pattern=r"^/")
    url: HttpUrl | None = Field(default=None, description="Base URL of an OpenAI-compatible endpoint, ending with /v1")
    model: str | None = Field(default=None, description="The name at that endpoint, if it differs from this document's")
    api_key_env: str | None = Field(default=None, description="The environment variable that holds the endpoint's key")

    @model_validator(mode="after")
    def _one_way(self) -> "Source":
        ways = [name for name in ("package", "huggingface", "path", "url") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise ValueError(f"exactly one of package, huggingface, path, url is wanted, not {ways or 'none'}")
        return self


class Resources(_Part):
    """What one replica takes."""

    gpus: int = Field(default=0, ge=0)
    accelerator_type: str | None = None


class Scaling(_Part):
    """How many replicas, and how many requests each has in flight."""

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    max_in_flight: int = Field(
        default=32, ge=1, description="Requests in flight per replica; the others wait in the queue"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Scaling":
        if self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas is greater than maxReplicas")
        return self


class VllmOptions(_Part):
    """Options of the vLLM engine, by vLLM's own names in camel case."""

    max_model_len: int | None = Field(default=None, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: str | None = None
    enforce_eager: bool = False
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    tensor_parallel_size: int = Field(default=1, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    enable_prefix_caching: bool = True
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None


class Sampling(_Part):
    """How the model picks tokens where a request does not say, by the names of a generation config."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="Tokens of one answer at most, whatever is asked"
    )


class Spec(_Part):
    """What is wanted."""

    title: str | None = Field(default=None, description="The name that people see")
    task: Literal["chat"]
    engine: Literal["vllm", "openai"]
    source: Source
    resources: Resources = Resources()
    scaling: Scaling = Scaling()
    sampling: Sampling | None = None
    vllm: VllmOptions | None = None

    @model_validator(mode="after")
    def _fits_the_engine(self) -> "Spec":
        remote = self.source.url is not None
        if remote != (self.engine == "openai"):
            raise ValueError("source.url belongs to the engine openai, and only to it")
        for part in ("vllm", "sampling"):
            if getattr(self, part) is not None and self.engine != "vllm":
                raise ValueError(f"the options under {part} belong to the engine vllm")
        return self


class ModelDocument(_Part):
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
