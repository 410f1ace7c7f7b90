"""The platform's configuration, read from the environment once (docs/developers/architecture.md lists it)."""

import sys
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Price(BaseModel):
    """What a million tokens of a model cost."""

    prompt: Decimal = Decimal(0)
    completion: Decimal = Decimal(0)


class Config(BaseSettings):
    """One attribute per variable."""

    model_config = SettingsConfigDict(env_prefix="AIIA_", extra="ignore")

    database_url: str = Field(validation_alias="DATABASE_URL")
    redis_url: str = Field(default="", validation_alias="REDIS_URL")
    secret_key: str = ""
    secret_key_file: Path | None = None
    internal_token: str = ""
    internal_token_file: Path | None = None
    data_dir: Path = Path("data")
    debug: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: str = ""
    gateway_url: str = "http://127.0.0.1:8000/v1"
    gateway_app: str = ""
    log_level: str = "INFO"
    #: Where a worker shows its metrics, on loopback; 0: nowhere.
    metrics_port: int = 0
    manager_url: str = "http://127.0.0.1:8001"
    #: Seconds for which a model may fail, again and again and without a token, before its answer fails.
    patience: float = 120.0
    #: Prices by model, `*` for the others, as JSON: `{"qwen3-8b": {"prompt": 0.1, "completion": 0.4}}`.
    prices: dict[str, Price] = {}
    currency: str = "USD"
    #: Fonts for exported PDF documents with characters that the packaged ones lack, tried in this order: paths, with
    #: `:` between them. The usual places of Noto Sans CJK in Debian, Ubuntu and Fedora by default.
    pdf_fonts: str = (
        "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"
        ":/usr/share/fonts/google-noto-sans-cjk-fonts/NotoSansCJK-Regular.ttc"
    )
    #: Registrations from one address, as django-allauth writes its rates.
    signup_rate: str = "20/m/ip"
    #: Generations that one worker runs at the same time.
    worker_concurrency: int = 100

    @model_validator(mode="after")
    def _read_files(self) -> Self:
        if not self.secret_key and self.secret_key_file:
            self.secret_key = self.secret_key_file.read_text().strip()
        if not self.internal_token and self.internal_token_file:
            self.internal_token = self.internal_token_file.read_text().strip()
        if not self.secret_key:
            raise ValueError("set AIIA_SECRET_KEY or AIIA_SECRET_KEY_FILE")
        if not self.internal_token:
            raise ValueError("set AIIA_INTERNAL_TOKEN or AIIA_INTERNAL_TOKEN_FILE")
        return self


@cache
def config() -> Config:
    """The configuration of this process. Ends it with a line per variable that is missing or wrong."""
    try:
        return Config()  # type: ignore[call-arg]  # pydantic reads the fields from the environment
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'environment'}: {e['msg']}" for e in error.errors()]
        sys.exit("aiia is not configured (`aiia up` does it):\n" + "\n".join(problems))
