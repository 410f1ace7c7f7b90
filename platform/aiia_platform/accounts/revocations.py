"""Word to the gateways that a key is no longer good."""

import logging

import redis
from django.db import transaction

from aiia_platform.config import config

log = logging.getLogger(__name__)

#: Gateways listen here for the hex SHA-256 of keys. They ask about a key anew after seconds anyway.
CHANNEL = "aiia:keys:revoked"


def announce(sha256: str) -> None:
    """Tell all gateways, once the transaction is done, to forget what they know of a key."""
    transaction.on_commit(lambda: _publish(sha256))


def _publish(sha256: str) -> None:
    if not config().redis_url:
        return
    try:
        with redis.Redis.from_url(config().redis_url, socket_connect_timeout=1, socket_timeout=1) as client:
            client.publish(CHANNEL, sha256)
    except redis.RedisError as error:
        log.warning("a revoked key may still be used for some seconds: %s", error)
