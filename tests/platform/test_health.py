import pytest
from django.test import AsyncClient

from tests.support.services import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]


async def test_healthz_asks_nobody() -> None:
    response = await AsyncClient().get("/healthz")
    assert response.status_code == 200


async def test_readyz_tells_strangers_only_whether(redis_server: RedisServer, no_jobs: None) -> None:
    response = await AsyncClient().get("/readyz", headers={"X-Forwarded-For": "203.0.113.7"})
    assert response.json() == {"ready": False}
    response = await AsyncClient().get(
        "/readyz", headers={"X-Forwarded-For": "203.0.113.7", "Authorization": "Bearer internal-token-of-the-tests"}
    )
    assert "dependencies" in response.json()


async def test_readyz_names_what_is_missing(redis_server: RedisServer, no_jobs: None) -> None:
    response = await AsyncClient().get("/readyz")
    assert response.status_code == 503
    dependencies = response.json()["dependencies"]
    assert dependencies["postgres"] == {"ok": True}
    assert dependencies["redis"] == {"ok": True}
    assert not dependencies["worker"]["ok"]
    assert "No worker" in dependencies["worker"]["reason"]
    assert not dependencies["gateway"]["ok"]
    assert dependencies["gateway"]["reason"]
