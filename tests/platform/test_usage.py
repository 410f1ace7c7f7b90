"""What gateways report is counted once per request, and everybody sees their own."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import redis
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from aiia_platform.accounts.models import ApiKey, User
from aiia_platform.accounts.revocations import CHANNEL
from aiia_platform.config import Price, config
from aiia_platform.usage.models import UsageRecord
from aiia_platform.usage.quotas import used_today
from tests.support.services import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

INTERNAL = {"Authorization": "Bearer internal-token-of-the-tests"}


def record(user: User | None = None, **fields: object) -> dict[str, Any]:
    return {
        "request_id": uuid.uuid4().hex,
        "user_id": str(user.pk) if user else "internal",
        "key_id": None,
        "model": "qwen3-8b",
        "class": "api",
        "kind": "chat",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cached_tokens": 4,
        "gpu_ms": 0,
        "steps": 0,
        "outcome": "complete",
        "started_at": datetime(2026, 11, 24, 12, tzinfo=UTC).isoformat(),
        "queued_ms": 3,
        "first_token_ms": 40,
        "duration_ms": 900,
    } | fields


def report(*records: object, headers: dict[str, str] = INTERNAL) -> Any:
    return Client().post("/internal/usage", {"records": records}, content_type="application/json", headers=headers)


def test_a_request_counts_once_however_often_it_is_reported(user: User) -> None:
    key, _ = ApiKey.create(user, "laptop")
    first, second = record(user, key_id=str(key.id)), record(user)
    assert report(first).status_code == 204
    assert report(first, second, first).status_code == 204
    stored = UsageRecord.objects.get(request_id=first["request_id"])
    assert (stored.user, stored.key, stored.work_class, stored.first_token_ms) == (user, key, "api", 40)
    assert UsageRecord.objects.count() == 2


def test_a_gateway_that_was_taken_for_dead_knows_better(user: User) -> None:
    lost = record(user, outcome="lost", completion_tokens=0)
    true = lost | {"outcome": "complete", "completion_tokens": 70}
    for told in (lost, true, lost):
        assert report(told).status_code == 204
    assert [(row.outcome, row.completion_tokens) for row in UsageRecord.objects.all()] == [("complete", 70)]


def test_who_is_gone_leaves_what_was_used(user: User) -> None:
    key, _ = ApiKey.create(user, "laptop")
    report(record(user, key_id=str(key.id)))
    user.delete()
    late = {"user_id": "4711", "key_id": str(uuid.uuid4())}
    assert report(record(**late), record(user_id="internal")).status_code == 204
    assert set(UsageRecord.objects.values_list("user", "key")) == {(None, None)}
    assert UsageRecord.objects.count() == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("class", "vip"),
        ("kind", "telepathy"),
        ("outcome", "fine"),
        ("prompt_tokens", -1),
        ("completion_tokens", 2**31),
        ("model", "nul\x00"),
        ("started_at", "2026-11-24T12:00:00"),
        ("key_id", "laptop"),
    ],
)
def test_a_mistake_is_named_and_costs_no_other_record(user: User, field: str, value: object) -> None:
    response = report(record(user), record(user, **{field: value}))
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert [error["field"] for error in response.json()["errors"]] == [f"records.1.{field}"]
    assert UsageRecord.objects.count() == 1


def test_usage_is_reported_by_gateways_only(user: User) -> None:
    _, secret = ApiKey.create(user, "laptop")
    assert report(record(user), headers={}).status_code == 401
    assert report(record(user), headers={"Authorization": f"Bearer {secret}"}).status_code == 401
    assert Client().post("/internal/usage", "[]", content_type="application/json", headers=INTERNAL).status_code == 400
    assert not UsageRecord.objects.exists()


def test_a_batch_of_any_size_takes_as_many_queries(
    user: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    key, _ = ApiKey.create(user, "laptop")
    for count in (1, 200):
        with django_assert_num_queries(6):  # savepoint, lost, users, keys, insert, savepoint
            report(*(record(user, key_id=str(key.id)) for _ in range(count)))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", [ApiKey.revoke, ApiKey.delete, lambda key: key.user.delete()])
def test_gateways_hear_of_a_revoked_key(redis_server: RedisServer, user: User, end: Callable[[ApiKey], object]) -> None:
    key, _ = ApiKey.create(user, "laptop")
    with redis.Redis.from_url(redis_server.url) as client, client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(CHANNEL)
        heard.get_message(timeout=5)
        with transaction.atomic():
            end(key)
            # Not before it is true for everybody.
            assert heard.get_message() is None
        message = heard.get_message(timeout=5)
    assert message is not None
    assert message["data"].decode() == key.sha256


@pytest.mark.django_db(transaction=True)
def test_a_key_is_revoked_without_redis(redis_server: RedisServer, user: User) -> None:
    key, _ = ApiKey.create(user, "laptop")
    redis_server.kill()
    try:
        key.revoke()
    finally:
        redis_server.start()
    assert not ApiKey.objects.active().exists()


def test_each_user_sees_what_their_requests_cost(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = {"qwen3-8b": Price(prompt=Decimal(1), completion=Decimal(4))}
    monkeypatch.setattr(config(), "prices", prices)
    other = User.objects.create_user("eve", "eve@example.org", "correct horse battery")
    report(record(user), record(user), record(other), record(user, model="free"))
    # A price that changes later changes nothing of what was used.
    prices.clear()
    client = Client()
    client.force_login(user)
    with CaptureQueriesContext(connection) as few:
        shown = {row["model"]: row["cost"] for row in client.get("/api/usage/").json()["results"]}
    assert shown == {"qwen3-8b": "0.00006000", "free": None}
    assert used_today(user, datetime(2026, 11, 24, 13, tzinfo=UTC))["cost"] == Decimal("0.00006")
    assert used_today(user, datetime(2026, 11, 25, 13, tzinfo=UTC))["cost"] is None
    report(*(record(user, model=f"m{n}") for n in range(30)))
    with CaptureQueriesContext(connection) as many:
        client.get("/api/usage/")
    assert len(many) == len(few)
