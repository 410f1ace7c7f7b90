"""A worker's metrics over HTTP: it has no other address."""

import logging
from datetime import timedelta

from aiohttp import web
from django.db import DatabaseError, models
from django.db.models import Count
from django.db.models.functions import Now
from procrastinate.contrib.django.models import ProcrastinateWorker

from aiia_platform.db import in_db
from aiia_platform.generations.models import Generation
from aiia_platform.observability import metrics

log = logging.getLogger(__name__)

#: A worker that died leaves its row behind for a while; after this it is a matter of history.
_FORGOTTEN = timedelta(minutes=10)


async def start(port: int) -> web.AppRunner:
    """Serve `GET /metrics` on loopback until the returned runner's `cleanup`. Raises `OSError` for a port in use."""
    app = web.Application()
    app.router.add_get("/metrics", _show)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def _show(_: web.Request) -> web.Response:
    try:
        await in_db(_read)
    except DatabaseError as error:
        # What the worker itself counts is worth the more while Postgres is away.
        log.warning("metrics without those of the database", extra={"fields": {"error": type(error).__name__}})
    return web.Response(body=metrics.page(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _read() -> None:
    counted = Generation.objects.active().values_list("state").annotate(Count("pk")).order_by()
    active = {str(state): 0 for state in Generation.ACTIVE} | dict(counted)
    alive = ProcrastinateWorker.objects.filter(last_heartbeat__gt=Now() - _FORGOTTEN)
    ages = dict(alive.annotate(age=Now() - models.F("last_heartbeat")).values_list("pk", "age"))
    metrics.heartbeats.clear()
    for state, count in active.items():
        metrics.active.labels(state).set(count)
    for worker, age in ages.items():
        metrics.heartbeats.labels(str(worker)).set(age.total_seconds())
