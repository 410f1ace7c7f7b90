"""The data directory of one instance: what lies where."""

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from aiia_cli.errors import UserError

#: Postgres alone wants some tens of MB of write-ahead log at all times.
_MIN_FREE_BYTES = 300 * 1024**2


def default_data_dir() -> Path:
    """`~/.local/share/aiia` on Linux."""
    return Path(platformdirs.user_data_dir("aiia", appauthor=False))


@dataclass(frozen=True)
class DataDir:
    """Paths under one data directory. `path` is absolute."""

    path: Path

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def redis(self) -> Path:
        return self.path / "redis"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def models(self) -> Path:
        """The owner's own Model documents."""
        return self.path / "models"

    @property
    def lock(self) -> Path:
        return self.path / "instance.lock"

    @property
    def record(self) -> Path:
        return self.path / "instance.json"

    def log(self, role: str) -> Path:
        return self.logs / f"{role}.log"

    def prepare(self) -> None:
        """Make the folders. Raises `UserError` where that is impossible or too little space is left."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.redis, self.logs, self.models):
                folder.mkdir(exist_ok=True)
            self.secrets.mkdir(mode=0o700, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_bytes(b"x" * 4096)
            probe.unlink()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._full() from None
            raise UserError(
                f"The data directory {self.path} cannot be written: {error.strerror}.\n"
                "Make it writable, or choose another: aiia up --data-dir FOLDER"
            ) from None
        if shutil.disk_usage(self.path).free < _MIN_FREE_BYTES:
            raise self._full()

    def _full(self) -> UserError:
        free = shutil.disk_usage(self.path).free // 1024**2
        return UserError(
            f"The disk of {self.path} is full: {free} MB are free, aiia needs {_MIN_FREE_BYTES // 1024**2} MB.\n"
            "Free some space, or choose another folder: aiia up --data-dir FOLDER"
        )
