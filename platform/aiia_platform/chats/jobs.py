"""Durable jobs of chats."""

from procrastinate.contrib.django import app

from aiia_platform.chats.models import expire
from aiia_platform.db import in_db


@app.periodic(cron="17 * * * *")
@app.task(name="expire_chats", queueing_lock="expire_chats")
async def expire_chats(timestamp: int) -> None:
    """Delete for good, every hour, what was deleted a day before, and temporary chats that are no longer used."""
    await in_db(expire)
