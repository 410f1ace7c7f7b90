"""The page that a browser shows when it cannot reach the server, and the script that keeps it there."""

import hashlib

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.http import require_safe


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """For nobody in particular, since it is kept."""
    return HttpResponse(render_to_string("offline.html"))


@require_safe
def script(request: HttpRequest) -> HttpResponse:
    """The service worker. It stands at the root, as it may only watch over what lies below it."""
    version = hashlib.sha256(render_to_string("offline.html").encode()).hexdigest()[:12]
    response = render(request, "offline.js", {"version": version}, content_type="text/javascript")
    response["Cache-Control"] = "no-cache"
    return response
