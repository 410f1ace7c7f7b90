"""Durable jobs of generations."""

from uuid import UUID

from procrastinate.contrib.django import app

from aiia_platform.generations.runner import Runner

_runner: Runner | None = None


def use(runner: Runner | None) -> None:
    """Name the runner of this worker process."""
    global _runner
    _runner = runner


@app.task(name="run_generation")
async def run_generation(generation_id: str) -> None:
    """Make an answer. The generation's row says what is to be done, so running it again does no harm."""
    if _runner is None:
        raise RuntimeError("run_generation runs in `python -m aiia_platform worker` only")
    await _runner.run(UUID(generation_id))
