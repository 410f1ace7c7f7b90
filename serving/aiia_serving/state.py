"""What the manager reports about models and the gateway acts on: the wire format of the manager's ``/state``."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict


class State(StrEnum):
    """Where a model is on its way; ``failed`` comes with a reason."""

    REGISTERED = "registered"
    DOWNLOADING = "downloading"
    COLD = "cold"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Upstream(BaseModel):
    """Where a model answers. ``base_url`` is OpenAI's (it ends with ``/v1``), ``model`` the name known there."""

    model_config = ConfigDict(frozen=True)

    base_url: str
    model: str
    api_key: str | None = None


class Held(BaseModel):
    """Where one replica has an image model and how it is loaded there.

    ``place`` is ``device``, ``main`` (memory) or ``away``; ``bytes`` are those of its weights, wherever they lie,
    and ``common_bytes`` those of them that are other models' too, in memory once.
    ``why`` tells how precision, quantisation and offload were chosen, ``problem`` why it could not be loaded the last
    time. ``load_s`` and ``move_s`` are the seconds that it took to load it and to bring it from main memory.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    replica: str
    place: Literal["device", "main", "away"]
    bytes: int
    common_bytes: int = 0
    device: str = ""
    precision: str = ""
    quantization: str = "none"
    offload: str = "none"
    why: str = ""
    problem: str | None = None
    load_s: float | None = None
    move_s: float | None = None


class ModelState(BaseModel):
    """One model. ``progress`` is from 0 to 1, ``eta_s`` in seconds, ``max_in_flight`` for all replicas together,
    ``max_new_tokens`` of one answer, whatever is asked.

    ``capabilities`` are words such as ``chat``, ``completions``, ``tools``, ``vision``, ``reasoning``, ``json_schema``,
    ``embeddings``, ``rerank``. ``base`` names the model whose replicas and queue this one shares: a LoRA adapter and a
    further image model have no replicas of their own. ``starts_on_demand`` says that a cold model starts when a request
    waits for it. ``held`` has an entry for each replica of an image model that has told where it has it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    task: str
    engine: str
    title: str
    state: State
    reason: str | None = None
    progress: float | None = None
    eta_s: float | None = None
    upstream: Upstream | None = None
    max_model_len: int | None = None
    max_new_tokens: int | None = None
    max_in_flight: int = 32
    exact_continuation: bool = False
    capabilities: tuple[str, ...] = ()
    base: str | None = None
    starts_on_demand: bool = True
    replicas: int = 0
    min_replicas: int = 0
    max_replicas: int = 1
    held: tuple[Held, ...] = ()

    @property
    def queue(self) -> str:
        """The name of the queue that its requests wait in."""
        return self.base or self.id


class StateReport(BaseModel):
    """All models at one version; the version differs whenever anything else does."""

    model_config = ConfigDict(extra="ignore")

    version: str
    models: list[ModelState]
