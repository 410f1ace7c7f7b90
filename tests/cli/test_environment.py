import os
from pathlib import Path

import pytest

from aiia_cli.datadir import DataDir
from aiia_cli.environment import Ports, role_environment, serving_environment
from aiia_cli.options import Options

pytestmark = pytest.mark.unit

PORTS = Ports(postgres=1, redis=2, manager=3, ray=4, serve=5)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path)
    data.prepare()
    return data


def environment(options: Options) -> dict[str, str]:
    return role_environment(options, PORTS, "postgresql://database", "redis://live")


def test_roles_find_each_other(data: DataDir) -> None:
    found = environment(Options(data, port=8123))
    assert found["AIIA_GATEWAY_URL"] == "http://127.0.0.1:8123/v1"
    assert found["AIIA_PLATFORM_URL"] == "http://127.0.0.1:8123"
    assert found["AIIA_MANAGER_URL"] == "http://127.0.0.1:3"
    assert found["DATABASE_URL"] == "postgresql://database"
    assert found["AIIA_MODELS_DIR"].split(os.pathsep)[-1] == str(data.models)


def test_models_are_not_told_the_way_to_the_data(data: DataDir) -> None:
    found = serving_environment(environment(Options(data)))
    assert not {"DATABASE_URL", "REDIS_URL", "AIIA_SECRET_KEY_FILE"} & found.keys()
    assert found["AIIA_INTERNAL_TOKEN_FILE"]


def test_no_secret_is_in_it(data: DataDir) -> None:
    found = environment(Options(data))
    made = {file.read_text() for file in data.secrets.iterdir()}
    assert made
    assert not made & set(found.values())


def test_no_models_and_another_endpoint(data: DataDir) -> None:
    found = environment(Options(data, no_models=True, openai_base_url="http://localhost:1234/v1"))
    assert found["AIIA_NO_MODELS"] == "1"
    assert found["OPENAI_BASE_URL"] == "http://localhost:1234/v1"
    assert environment(Options(data))["AIIA_NO_MODELS"] == ""


def test_listening_everywhere_lets_this_machines_names_in(data: DataDir) -> None:
    found = environment(Options(data, host="0.0.0.0"))
    assert found["AIIA_GATEWAY_URL"] == "http://127.0.0.1:8000/v1"
    assert "127.0.0.1" in found["AIIA_ALLOWED_HOSTS"].split(",")
    assert environment(Options(data))["AIIA_ALLOWED_HOSTS"] == ""
