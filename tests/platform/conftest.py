import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat
from aiia_platform.generations.models import Generation


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def no_jobs(db: None) -> None:
    """Procrastinate's tables are not Django's to empty after a test."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_jobs")
        cursor.execute("DELETE FROM procrastinate_workers")


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create_user("ada", "ada@example.org", "correct horse battery")


@pytest.fixture
def send(user: User) -> Callable[..., Generation]:
    """Send a message as the user; by default in a new chat."""

    def send(text: str = "Hello", chat: Chat | None = None, message_id: uuid.UUID | None = None) -> Generation:
        return Chat.send(
            user=user,
            chat_id=chat.id if chat else uuid.uuid4(),
            message_id=message_id or uuid.uuid4(),
            text=text,
            model="fake",
        )

    return send
