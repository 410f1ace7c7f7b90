"""The pages of metrics at one address: the gateway's own, and through it the manager's and the engines'.

On one machine the ports of those change with every start, and other machines cannot reach them at all.
"""

from collections.abc import Callable

import aiohttp
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from aiia_serving.gateway import metrics
from aiia_serving.gateway.errors import ApiError, unavailable
from aiia_serving.gateway.services import Gateway
from aiia_serving.metrics import CONTENT_TYPE, may_read, page

_TIMEOUT = aiohttp.ClientTimeout(total=5)


def pages(gateway_of: Callable[[], Gateway]) -> APIRouter:
    """``/metrics``, ``/metrics/manager`` and ``/metrics/models/{id}``, for those who may read them."""
    router = APIRouter()

    def opened(request: Request) -> Gateway:
        gateway = gateway_of()
        if not may_read(request.client and request.client.host, request.headers, gateway.settings.internal_token):
            raise HTTPException(404)
        return gateway

    @router.get("/metrics")
    async def own(request: Request) -> Response:
        gateway = opened(request)
        metrics.show_queues(await gateway.queue.load())
        return Response(page(), media_type=CONTENT_TYPE)

    @router.get("/metrics/manager")
    async def manager(request: Request) -> Response:
        gateway = opened(request)
        headers = {"Authorization": f"Bearer {gateway.settings.internal_token}"}
        return await _passed_on(gateway, f"{gateway.settings.manager_url.rstrip('/')}/metrics", headers)

    @router.get("/metrics/models/{model_id:path}")
    async def engine(request: Request, model_id: str) -> Response:
        gateway = opened(request)
        model = await gateway.registry.get(model_id)
        if model.engine == "openai" or model.upstream is None:
            raise ApiError(404, f"'{model_id}' does not run here and has no metrics.", code="no_metrics")
        return await _passed_on(gateway, model.upstream.base_url.removesuffix("/v1") + "/metrics", {})

    return router


async def _passed_on(gateway: Gateway, url: str, headers: dict[str, str]) -> Response:
    try:
        async with gateway.session.get(url, headers=headers, timeout=_TIMEOUT) as answer:
            return Response(await answer.read(), answer.status, media_type=answer.headers.get("Content-Type"))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise unavailable(f"No metrics: {type(error).__name__}.", code="not_reachable") from error
