"""What all requests of one gateway share."""

import uuid

from aiia_serving.gateway.auth import Authenticator
from aiia_serving.gateway.images.pace import Paces
from aiia_serving.gateway.images.store import ImageStore
from aiia_serving.gateway.meter import Meter
from aiia_serving.gateway.registry import Registry
from aiia_serving.gateway.revocations import Revocations
from aiia_serving.gateway.sessions import Sessions
from aiia_serving.gateway.settings import GatewaySettings
from aiia_serving.gateway.upstream import new_session
from aiia_serving.gateway.wire import Client
from aiia_serving.queue import Queue
from aiia_serving.queue.fifo import FifoQueue


class Gateway:
    """Made inside a running event loop."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.id = uuid.uuid4().hex
        self.session = new_session()
        self.client = Client()
        self.meter = Meter(self.session, settings.platform_url, settings.internal_token, settings.redis_url)
        self.queue = self._queue()
        self.registry = Registry(self.session, settings.manager_url, settings.internal_token, self.queue)
        self.authenticator = Authenticator(
            self.session,
            settings.platform_url,
            settings.internal_token,
            settings.gateway_key_ttl_s,
            settings.gateway_unknown_key_ttl_s,
        )
        self.paces = Paces()
        self.sessions = Sessions()
        self.images = ImageStore(settings.redis_url, settings.internal_token, settings.gateway_image_ttl_s)
        self._revocations = Revocations(settings.redis_url, self.authenticator.forget)

    def _queue(self) -> Queue:
        settings = self.settings
        if settings.gateway_queue == "fifo" or not settings.redis_url:
            return FifoQueue(settings.gateway_max_waiting)
        from aiia_serving.queue.fair import RedisQueue

        return RedisQueue(
            settings.redis_url,
            gateway_id=self.id,
            max_waiting=settings.gateway_max_waiting,
            abandoned=self.meter.abandoned,
        )

    async def close(self) -> None:
        await self._revocations.close()
        await self.registry.close()
        await self.queue.close()
        await self.meter.close()
        await self.images.close()
        await self.session.close()
        self.client.close()
