"""Waiting for an afterword as readers of its answer do."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID

from aiia_platform.afterwords.models import Afterword
from aiia_platform.db import in_db
from aiia_platform.generations.live import PING, POLL, QUIET, Ping, Tail


async def settled(generation_id: UUID) -> AsyncIterator[Ping]:
    """A `Ping` now and then, until the afterword is settled or there is none. Never raises for an unreachable Redis."""
    tail = Tail(generation_id)
    last_word = time.monotonic()
    try:
        while await in_db(Afterword.objects.pending().filter(pk=generation_id).exists):
            # The row is the truth; Redis only says when to look again.
            if await tail.read(QUIET) is None:
                await asyncio.sleep(POLL)
            if time.monotonic() - last_word > PING:
                last_word = time.monotonic()
                yield Ping()
    finally:
        await tail.close()
