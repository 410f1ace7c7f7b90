"""What the manager reports about models and the gateway acts on: the wire format of the manager's ``/state``."""

from enum import StrEnum

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


class ModelState(BaseModel):
    """One model. ``progress`` is from 0 to 1, ``eta_s`` in seconds, ``max_in_flight`` for all replicas together."""

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
    max_in_flight: int = 32
    exact_continuation: bool = False


class StateReport(BaseModel):
    """All models at one version; the version differs whenever anything else does."""

    model_config = ConfigDict(extra="ignore")

    version: str
    models: list[ModelState]
