"""What the user asked `aiia up` for."""

from dataclasses import dataclass

from aiia_cli.datadir import DataDir
from aiia_cli.ports import LOOPBACK

_EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104


@dataclass(frozen=True)
class Options:
    """`host` and `port`: where the web role listens. `openai_base_url`: an endpoint whose models appear too, or ''."""

    data: DataDir
    host: str = LOOPBACK
    port: int = 8000
    no_models: bool = False
    openai_base_url: str = ""

    @property
    def local_host(self) -> str:
        """The address by which this machine reaches the web role."""
        return _EVERYWHERE.get(self.host, self.host)

    @property
    def address(self) -> str:
        """What to open in a browser on this machine."""
        host = f"[{self.local_host}]" if ":" in self.local_host else self.local_host
        return f"http://{host}:{self.port}"
