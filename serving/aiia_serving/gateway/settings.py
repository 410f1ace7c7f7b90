"""The gateway's configuration."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aiia_serving.settings import read_secret


class GatewaySettings(BaseSettings):
    """Read from the variables ``AIIA_<NAME>``. Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="AIIA_", populate_by_name=True)

    manager_url: str = "http://127.0.0.1:8001"
    platform_url: str = "http://127.0.0.1:8000"
    internal_token: str | None = Field(default_factory=lambda: read_secret("AIIA_INTERNAL_TOKEN"))

    redis_url: str = Field(default="", validation_alias="REDIS_URL")
    # Without Redis always first come, first served, inside each gateway.
    gateway_queue: Literal["fair", "fifo"] = "fair"

    gateway_max_body: int = 32 * 1024 * 1024
    # How long a request waits for its turn and for a model that is not ready.
    gateway_hold_s: float = 300
    # How long a request that has had no answer yet is tried again on a model that is said to be ready.
    gateway_retry_s: float = 30
    # How long a model may be silent in the middle of an answer.
    gateway_stall_s: float = 300
    # How long a link to an image is good, and the scheme and host that it begins with; empty: those of the request.
    gateway_image_ttl_s: int = Field(default=3600, ge=1)
    gateway_public_url: str = ""
    gateway_max_waiting: int = 256
    # How long the platform's word on a key is believed: what it takes a revoked key to stop working.
    gateway_key_ttl_s: float = 5
    gateway_unknown_key_ttl_s: float = 2
