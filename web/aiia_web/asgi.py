"""The ASGI application: Django, and in front of it what configuration mounts under `/v1`."""

import gc
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import django
from django.core.asgi import get_asgi_application
from django.urls import get_resolver
from django.utils.module_loading import import_string

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def mount(site: App, gateway: App) -> App:
    """One application: `gateway` answers under `/v1` and gets the lifespan events, `site` answers everything else.

    Both count into the same metrics; the gateway shows them, as it adds its queues and what others tell it.
    """

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or f"{scope['path']}/".startswith(("/v1/", "/metrics/")):
            await gateway(scope, receive, send)
        else:
            await site(scope, receive, send)

    return dispatch


def _application() -> App:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiia_platform.settings")
    django.setup()
    from aiia_platform.config import config

    # Django names its messages more narrowly than servers do.
    site = cast(App, get_asgi_application())
    gateway = import_string(config().gateway_app.replace(":", ".")) if config().gateway_app else None
    get_resolver().url_patterns  # noqa: B018  # loads the views
    # What is loaded stays. Looking through all of it for garbage would hold up an answer for a tenth of a second.
    gc.collect()
    gc.freeze()
    return mount(site, gateway) if gateway else site


application = _application()
