"""The options of each engine, as they stand in a Model document."""

import difflib
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, cast

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator, model_validator

from aiia_serving.catalogue.part import Folder, Name, Part, Repository, Revision
from aiia_serving.images.families import Defaults, Limits, families


@cache
def vllm_arguments() -> frozenset[str]:
    """The names of vLLM's engine arguments, from a list of this package: vLLM itself is slow to import."""
    return frozenset(files("aiia_serving.catalogue").joinpath("vllm_arguments.txt").read_text().split())


class AdapterSource(Part):
    """Where a LoRA adapter comes from: one of the two."""

    huggingface: Repository | None = None
    revision: Revision = "main"
    path: Folder | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "AdapterSource":
        if (self.huggingface is None) == (self.path is None):
            raise ValueError("exactly one of huggingface, path is wanted")
        return self


class Adapter(Part):
    """A LoRA adapter: a model of its own name that the replicas of this one serve beside it."""

    name: Name
    title: str | None = None
    source: AdapterSource


class VllmOptions(Part):
    """Options of the vLLM engine, by vLLM's own names in camel case. What is not said is the preset's or vLLM's own."""

    max_model_len: int | None = Field(default=None, ge=1, description="Tokens of prompt and answer together")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    enforce_eager: bool | None = None
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    cpu_kv_cache_gb: int = Field(default=1, ge=1, description="Memory of the KV cache on a machine without a GPU")
    cpu_threads: int = Field(default=1, ge=1, description="Threads of one replica on a machine without a GPU")
    cpu_offload_gb: float | None = Field(default=None, ge=0)
    tensor_parallel_size: int | None = Field(default=None, ge=1, description="By default all GPUs of the replica")
    pipeline_parallel_size: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    long_prefill_token_threshold: int | None = Field(default=None, ge=0)
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    trust_remote_code: bool | None = None
    hf_overrides: dict[str, Any] | None = None
    speculative_config: dict[str, Any] | None = None
    limit_mm_per_prompt: dict[str, Any] | None = None
    chat_template: str | None = Field(default=None, description="A Jinja template, or the path of one")
    default_chat_template_kwargs: dict[str, Any] | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    sleep: bool = Field(default=False, description="Sleep instead of ending when idle; on GPUs only")
    loras: tuple[Adapter, ...] = ()
    max_loras: int | None = Field(default=None, ge=1, description="Adapters in one batch; by default all of them")
    max_lora_rank: int | None = Field(default=None, ge=1)
    engine_args: dict[str, Any] = Field(default={}, description="Any other argument of vLLM's engine, by its own name")

    @field_validator("engine_args")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in cls.model_fields:
                raise ValueError(f"{name} is an option of its own: vllm.{cls.model_fields[name].alias}")
            if name in _OURS:
                raise ValueError(f"{name} is set from the rest of the document")
            if name not in vllm_arguments():
                near = difflib.get_close_matches(name, vllm_arguments() - _OURS, n=3)
                raise ValueError(
                    f"vLLM has no argument {name}" + (f"; did you mean {', '.join(near)}?" if near else "")
                )
        return value


# Arguments that follow from the document as a whole, or that would take a replica out of Serve's hands.
_OURS = frozenset(
    {
        "model",
        "model_weights",
        "served_model_name",
        "runner",
        "distributed_executor_backend",
        "enable_lora",
        "enable_sleep_mode",
        "override_generation_config",
        "disable_log_stats",
        "enable_log_requests",
        "download_dir",
        "revision",
        "hf_token",
        "tokens_only",
        "master_addr",
        "master_port",
        "nnodes",
        "node_rank",
        "_api_process_count",
        "_api_process_rank",
    }
)


class EmbeddingOptions(Part):
    """Options of the engine embedding."""

    max_length: int | None = Field(
        default=None, ge=1, description="Tokens of one input at most; by default the model's"
    )
    batch_size: int = Field(default=32, ge=1, description="Inputs that are computed together")
    threads: int = Field(default=1, ge=1, description="Threads of one replica on a machine without a GPU")
    matryoshka: bool | None = Field(
        default=None, description="Whether vectors may be shortened; by default what the model's configuration says"
    )


class RerankOptions(Part):
    """Options of the engine rerank."""

    max_length: int | None = Field(default=None, ge=1, description="Tokens of query and document together at most")
    batch_size: int = Field(default=32, ge=1, description="Pairs that are computed together")
    threads: int = Field(default=1, ge=1, description="Threads of one replica on a machine without a GPU")


class ImagePart(Part):
    """A file or folder that belongs to an image model, by the name that requests use for it."""

    name: Annotated[str, Field(pattern=r"^[\w][\w.:-]*$", max_length=128)]
    source: AdapterSource


class PipelineOptions(Part):
    """How one image model is loaded. What is ``auto`` is chosen by the memory and the devices that are there."""

    family: str | None = Field(default=None, description="Where the files do not tell: sd15, sdxl or flux")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["auto", "none", "fp8"] = Field(
        default="auto", description="fp8: the network's weights are kept in 8 bits and widened for each layer"
    )
    offload: Literal["auto", "none", "encoders", "blocks"] = Field(
        default="auto",
        description="encoders: the text encoders wait in main memory and are on the GPU only while they count; blocks:"
        " so do the network's blocks",
    )
    vae_tiling: bool | None = Field(default=None, description="Images are decoded in tiles, which takes less memory")
    attention: str = Field(default="auto", description="auto: measured; or one of diffusers' attention backends")
    compile: Literal["auto", "always", "never"] = Field(
        default="auto", description="auto: the network's repeated blocks, if that was measured to be quicker; GPUs only"
    )
    config: AdapterSource | None = Field(
        default=None, description="Configuration and tokenizers of a single safetensors file"
    )
    vae: AdapterSource | None = Field(default=None, description="Another VAE than the model's own")
    loras: tuple[ImagePart, ...] = ()
    controls: tuple[ImagePart, ...] = Field(default=(), description="ControlNets")
    upscalers: tuple[ImagePart, ...] = Field(default=(), description="Models that enlarge images, such as ESRGAN's")
    depths: tuple[ImagePart, ...] = Field(
        default=(), description="Preprocessors that see depth: folders of transformers, such as Depth Anything's"
    )
    limits: dict[str, Any] = Field(default={}, description="Bounds of requests that differ from the family's")
    defaults: dict[str, Any] = Field(default={}, description="Presets of requests that differ from the family's")

    @field_validator("loras", "controls", "upscalers", "depths")
    @classmethod
    def _different(cls, value: tuple[ImagePart, ...]) -> tuple[ImagePart, ...]:
        names = [part.name for part in value]
        if len(set(names)) < len(names):
            raise ValueError("a name stands here twice")
        return value

    @field_validator("family")
    @classmethod
    def _of_ours(cls, value: str | None) -> str | None:
        if value is not None and value not in families():
            raise ValueError(f"there is no family {value}; there are {', '.join(families())}")
        return value

    @field_validator("limits", "defaults")
    @classmethod
    def _of_a_family(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        fields = (Limits if info.field_name == "limits" else Defaults).model_fields
        for name, one in value.items():
            if name not in fields:
                raise ValueError(f"there is no {name}; there are {', '.join(fields)}")
            try:
                TypeAdapter(cast(Any, fields[name].annotation)).validate_python(one)
            except ValidationError as error:
                raise ValueError(f"{name}: {error.errors()[0]['msg']}") from None
        return value

    @property
    def sources(self) -> list[AdapterSource]:
        """All files beside the model's own."""
        parts = [part.source for part in (*self.loras, *self.controls, *self.upscalers, *self.depths)]
        return parts + [source for source in (self.config, self.vae) if source is not None]


class ImageModel(PipelineOptions):
    """A further image model: of its own name, on the replicas and in the queue of the document's."""

    name: Name
    title: str | None = None
    source: AdapterSource


class DiffusersOptions(PipelineOptions):
    """Options of the engine diffusers: the document's own model, its replicas, and the further models on them."""

    batch_size: int = Field(default=4, ge=1, le=64, description="Images of waiting requests that are drawn together")
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="Memory of the device that the weights of all models may take; by default nearly all of it",
    )
    threads: int = Field(default=1, ge=1, description="Threads of one replica on a machine without a GPU")
    models: tuple[ImageModel, ...] = Field(
        default=(), description="Further models on the same replicas, loaded when they are asked for"
    )

    @property
    def sources(self) -> list[AdapterSource]:
        """All files beside the models' own."""
        return super().sources + [source for model in self.models for source in model.sources]
