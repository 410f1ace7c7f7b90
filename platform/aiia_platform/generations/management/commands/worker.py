"""`python -m aiia_platform worker`: run durable jobs."""

import asyncio
import gc
import logging
import os
import secrets
import signal
from typing import Any
from uuid import UUID

import psycopg
import uvloop
from aiohttp import web
from django.core.management.base import BaseCommand
from procrastinate import App
from procrastinate.contrib.django import app
from procrastinate.contrib.django.utils import connector_params
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status

from aiia_platform.afterwords import jobs as afterwords
from aiia_platform.afterwords.models import Afterword
from aiia_platform.afterwords.writer import Writer
from aiia_platform.config import config
from aiia_platform.db import in_db
from aiia_platform.generations import jobs
from aiia_platform.generations.models import PRESENCE, STOP_CHANNEL, Generation
from aiia_platform.generations.runner import Runner
from aiia_platform.observability import scrape
from aiia_platform.observability.tracing import configure_tracing

log = logging.getLogger(__name__)

#: Seconds between two searches for abandoned work, and between two signs of life of the worker.
SEARCH_EVERY = 2.0
HEARTBEAT = 2.0
#: Seconds that running answers get to be released when the worker is told to stop.
GRACE = 1.0
#: Seconds after which it ends in any case.
LAST_CALL = 5.0


class Command(BaseCommand):
    help = "Run durable jobs until told to stop."
    # A worker serves no pages, and after a crash it has to be back at once.
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        configure_tracing("worker")
        # What is loaded stays. Looking through all of it for garbage would hold up every answer that is being written.
        gc.collect()
        gc.freeze()
        with app.replace_connector(app.connector.get_worker_connector()) as worker_app:  # type: ignore[attr-defined]
            uvloop.run(work(worker_app))


async def work(worker_app: App) -> None:
    """Run jobs, listen for stops and adopt abandoned generations until a signal comes."""
    running, loop = asyncio.current_task(), asyncio.get_running_loop()

    def stop() -> None:
        if running:
            running.cancel()
        # A Postgres that is gone, too, would be waited for; what was running is taken over all the same.
        loop.call_later(LAST_CALL, os._exit, 0)

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    number = secrets.randbelow(2**31)
    runner, writer = Runner(number), Writer(number)
    jobs.use(runner)
    afterwords.use(writer)
    present = asyncio.Event()
    side = [asyncio.create_task(be_present(number, (runner, writer), present))]
    page = await _show_metrics(config().metrics_port)
    try:
        await present.wait()
        async with worker_app.open_async():
            side.append(asyncio.create_task(adopt_abandoned(worker_app)))
            await asyncio.gather(*(_take_jobs(worker_app, queue) for queue in ("default", afterwords.QUEUE)))
    except asyncio.CancelledError:
        log.info("stopped")
    finally:
        for task in side:
            task.cancel()
        await asyncio.gather(*side, return_exceptions=True)
        jobs.use(None)
        afterwords.use(None)
        await runner.close()
        await writer.close()
        if page is not None:
            await page.cleanup()


async def _take_jobs(worker_app: App, queue: str) -> None:
    await worker_app.run_worker_async(
        queues=[queue],
        concurrency=config().worker_concurrency,
        delete_jobs="always",
        update_heartbeat_interval=HEARTBEAT,
        shutdown_graceful_timeout=GRACE,
        install_signal_handlers=False,
    )


async def _show_metrics(port: int) -> web.AppRunner | None:
    try:
        return await scrape.start(port) if port else None
    except OSError as error:
        # Of several workers on one machine the first has the port.
        log.warning("metrics are not shown: %s", error)
        return None


async def be_present(number: int, stoppable: tuple[Runner, Writer], present: asyncio.Event) -> None:
    """Hold the lock that says that this worker lives, and pass on who is to stop.

    Without the connection another worker takes over, and a stop is seen at the next write, a second later.
    """
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(**connector_params(), autocommit=True) as connection:
                await connection.execute("SELECT pg_advisory_lock(%s, %s)", [PRESENCE, number])
                await connection.execute(f"LISTEN {STOP_CHANNEL}")
                present.set()
                async for notification in connection.notifies():
                    for part in stoppable:
                        part.stop(UUID(notification.payload))
        except psycopg.Error as error:
            log.warning("out of touch with Postgres: %s", error)
            await asyncio.sleep(1)


async def adopt_abandoned(worker_app: App) -> None:
    """Queue again what a dead worker left behind."""
    while True:
        try:
            await _adopt_once(worker_app)
        except Exception as error:
            # Whatever is wrong with the database now, the next search may find it well again.
            log.warning("cannot search for abandoned answers: %s", error)
        await asyncio.sleep(SEARCH_EVERY)


async def _adopt_once(worker_app: App) -> None:
    abandoned = await in_db(lambda: list(Generation.objects.abandoned().values_list("pk", flat=True)))
    for pk in abandoned:
        try:
            await jobs.run_generation.configure(queueing_lock=str(pk)).defer_async(generation_id=str(pk))
        except AlreadyEnqueued:
            continue
        log.info("queued generation %s again", pk)
    await in_db(Afterword.enqueue_abandoned)
    try:
        stalled = await worker_app.job_manager.get_stalled_jobs(seconds_since_heartbeat=15)
        for job in stalled:
            # The generation's row is the truth, so the job of a dead worker is only litter.
            await worker_app.job_manager.finish_job(job, Status.FAILED, delete_job=True)
    except ConnectorException as error:
        log.warning("cannot clear stalled jobs: %s", error)
