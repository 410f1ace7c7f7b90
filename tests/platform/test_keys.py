"""What API keys may do, how long, and how much."""

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from aiia_platform.accounts.models import ApiKey, Role, Scope, User, UserSettings
from aiia_platform.chats.models import Chat
from aiia_platform.db import in_db
from aiia_platform.generations.models import Generation
from aiia_platform.generations.runner import Runner
from aiia_platform.options.models import StoredOption
from aiia_platform.usage.models import UsageRecord
from aiia_platform.usage.quotas import exceeded

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

INTERNAL = {"Authorization": "Bearer internal-token-of-the-tests"}


def verify(secret: str) -> Any:
    body = {"key_sha256": hashlib.sha256(secret.encode()).hexdigest()}
    return Client().post("/internal/keys/verify", body, content_type="application/json", headers=INTERNAL)


def key(user: User, *scopes: str, **more: Any) -> dict[str, str]:
    """The header of a new key."""
    return {"Authorization": f"Bearer {ApiKey.create(user, 'test', scopes, **more)[1]}"}


def use(user: User, tokens: int = 0, gpu_ms: int = 0, when: datetime | None = None) -> None:
    UsageRecord.objects.create(
        request_id=str(uuid.uuid4()),
        user=user,
        model="m",
        kind="chat",
        work_class="api",
        prompt_tokens=tokens,
        gpu_ms=gpu_ms,
        outcome="complete",
        started_at=when or timezone.now(),
    )


def test_a_key_expires(user: User) -> None:
    _, secret = ApiKey.create(user, "laptop", expires_at=timezone.now() + timedelta(hours=1))
    assert verify(secret).status_code == 200
    ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert verify(secret).status_code == 404
    assert Client().get("/api/usage/", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


def test_a_key_does_what_its_scopes_say(user: User) -> None:
    assert Client().get("/api/usage/", headers=key(user, Scope.READ)).status_code == 200
    response = Client().get("/api/usage/", headers=key(user, Scope.MODELS))
    assert response.status_code == 403
    assert "lacks the scope “read”" in response.json()["detail"]
    refusal = verify(ApiKey.create(user, "reader", [Scope.READ])[1]).json()["refusal"]
    assert refusal["status"] == 403


def test_a_key_of_an_administrator_administrates_only_with_that_scope(user: User) -> None:
    user.is_staff = True
    user.save()
    everybody = "/api/usage/?user=all"
    assert Client().get(everybody, headers=key(user, Scope.READ)).status_code == 403
    assert Client().get(everybody, headers=key(user, Scope.READ, Scope.ADMIN)).status_code == 200


def test_keys_of_a_closed_account_are_refused(user: User) -> None:
    _, secret = ApiKey.create(user, "laptop")
    user.close()
    assert verify(secret).status_code == 404


def test_a_day_s_share_is_the_user_s_the_role_s_or_the_installation_s(user: User) -> None:
    assert exceeded(user) is None
    use(user, tokens=100)
    StoredOption.change({"daily_tokens": 50})
    assert exceeded(user)
    user.role = Role.objects.create(name="Heavy", daily_tokens=1000)
    assert exceeded(user) is None
    user.daily_tokens = 100
    refusal = exceeded(user, datetime.now(UTC).replace(hour=23, minute=0, second=0, microsecond=0))
    assert refusal
    assert "100 tokens" in refusal.detail
    assert refusal.more["retry_after"] == 3600
    user.daily_tokens = 0
    assert exceeded(user) is None


def test_yesterday_does_not_count_and_images_do(user: User) -> None:
    StoredOption.change({"daily_tokens": 50, "daily_gpu_seconds": 10})
    use(user, tokens=100, when=timezone.now() - timedelta(days=1))
    assert exceeded(user) is None
    use(user, gpu_ms=10_000)
    refusal = exceeded(user)
    assert refusal
    assert "GPU seconds" in refusal.detail


def test_the_gateway_is_told_that_a_share_is_used_up(user: User) -> None:
    StoredOption.change({"daily_tokens": 50})
    use(user, tokens=50)
    answer = verify(ApiKey.create(user, "laptop")[1]).json()
    assert answer["refusal"]["status"] == 429
    assert answer["refusal"]["retry_after"] > 0


@pytest.mark.django_db(transaction=True)
async def test_an_answer_says_that_the_share_is_used_up(redis_server: object) -> None:
    def prepare() -> Generation:
        user = User.objects.create_user("ada", daily_tokens=50)
        use(user, tokens=50)
        return Chat.send(user=user, chat_id=uuid.uuid4(), message_id=uuid.uuid4(), text="Hello", model="m")

    generation = await in_db(prepare)
    runner = Runner(1)
    await runner.run(generation.pk)
    await runner.close()
    await in_db(generation.refresh_from_db)
    assert generation.state == "failed"
    assert generation.error == "You have used your 50 tokens of today. There are more at 0:00 UTC."


def test_a_new_chat_begins_with_what_its_user_prefers(user: User) -> None:
    UserSettings.objects.create(user=user, llm_preferences={"model": "m", "system_prompt": "Brief", "temperature": 0.1})

    def send(**more: Any) -> Chat:
        chat_id, message_id = uuid.uuid4(), uuid.uuid4()
        sent = Chat.send(user=user, chat_id=chat_id, message_id=message_id, text="Hello", model="m", **more)
        return sent.message.chat

    chat = send()
    assert (chat.system_prompt, chat.params) == ("Brief", {"temperature": 0.1})
    assert send(settings={"system_prompt": "Long"}).system_prompt == "Long"
