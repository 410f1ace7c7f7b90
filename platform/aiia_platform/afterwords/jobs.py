"""Durable jobs of afterwords. They have a queue of their own, so that however many wait, no answer waits for them."""

from uuid import UUID

from procrastinate.contrib.django import app

from aiia_platform.afterwords.writer import Writer

QUEUE = "afterwords"

_writer: Writer | None = None


def use(writer: Writer | None) -> None:
    """Name the writer of this worker process."""
    global _writer
    _writer = writer


@app.task(name="write_afterword", queue=QUEUE)
async def write_afterword(generation_id: str) -> None:
    """Write what is wanted after an answer. Its row says what is to be done, so running it again does no harm."""
    if _writer is None:
        raise RuntimeError("write_afterword runs in `python -m aiia_platform worker` only")
    await _writer.write(UUID(generation_id))
