"""Answers for HTMX: parts of pages, and errors as notices."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse


def is_fragment(request: HttpRequest) -> bool:
    """Whether HTMX asks for a part of the page. Going back in the history wants the whole one."""
    htmx: Any = getattr(request, "htmx", None)
    return bool(htmx) and not htmx.history_restore_request


def is_at(request: HttpRequest, address: str) -> bool:
    """Whether the page that asks for a fragment has this address already."""
    htmx: Any = getattr(request, "htmx", None)
    return bool(htmx) and htmx.current_url_abs_path == address


def toast(request: HttpRequest, status: int, text: str, *, href: str = "") -> HttpResponse:
    """An error as a notice at the edge of the page, whatever the request was to replace."""
    context = {"text": text, "level": "error", "href": reverse(href) if href else ""}
    response = render(request, "components/toast.html", context, status=status)
    response["HX-Retarget"] = "#toasts"
    response["HX-Reswap"] = "beforeend"
    return response
