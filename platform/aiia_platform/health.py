"""Whether this process lives, and what it depends on."""

import asyncio
from datetime import timedelta
from typing import Any

import redis.exceptions
from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from procrastinate.contrib.django.models import ProcrastinateWorker

from aiia_platform.gateway import GatewayError, ModelInfo, fetch_models
from aiia_platform.generations import live
from aiia_platform.internal import is_internal, is_local

Check = dict[str, Any]
OK: Check = {"ok": True}


async def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok\n", content_type="text/plain")


async def readyz(request: HttpRequest) -> HttpResponse:
    """Each dependency and model as JSON; 503 while Postgres, the worker or the gateway is missing.

    Redis and models are not needed to accept a message, so their absence is shown and does not make it unready. Details
    are for this machine and for our own roles; anybody else learns only whether it is ready.
    """
    postgres, redis_state, worker, (gateway, models) = await asyncio.gather(
        sync_to_async(_postgres)(), _redis(), sync_to_async(_worker)(), _gateway()
    )
    dependencies = {"postgres": postgres, "redis": redis_state, "worker": worker, "gateway": gateway}
    ready = all(dependencies[name]["ok"] for name in ("postgres", "worker", "gateway"))
    if not (is_local(request) or is_internal(request)):
        return JsonResponse({"ready": ready}, status=200 if ready else 503)
    body = {
        "ready": ready,
        "dependencies": dependencies,
        "models": [
            {
                "id": model.id,
                "state": model.state,
                "reason": model.reason,
                "progress": model.progress,
                "eta_s": model.eta_s,
            }
            for model in models
        ],
    }
    return JsonResponse(body, status=200 if ready else 503)


def _down(reason: str) -> Check:
    return {"ok": False, "reason": reason}


def _postgres() -> Check:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return _down("Postgres does not answer")
    return OK


def _worker() -> Check:
    try:
        alive = ProcrastinateWorker.objects.filter(last_heartbeat__gt=Now() - timedelta(seconds=6)).exists()
    except DatabaseError:
        return _down("unknown while Postgres does not answer")
    return OK if alive else _down("No worker has reported in the last 6 s")


async def _redis() -> Check:
    client = live.connect()
    if client is None:
        return _down("REDIS_URL is not set")
    try:
        await client.ping()
    except (redis.exceptions.RedisError, OSError):
        return _down("Redis does not answer; answers still arrive, in steps of a second")
    finally:
        await client.aclose()
    return OK


async def _gateway() -> tuple[Check, list[ModelInfo]]:
    try:
        return OK, await fetch_models(2)
    except GatewayError as error:
        return _down(str(error)), []
