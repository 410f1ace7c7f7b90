"""Searching what was said."""

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.dateparse import parse_date
from django.views.decorators.http import require_safe

from aiia_platform.chats import search
from aiia_web.access import SignedInRequest, signed_in

PER_PAGE = 20


def _date(value: str) -> object:
    try:
        return parse_date(value)
    except ValueError:
        return None


@signed_in
@require_safe
def show(request: SignedInRequest) -> HttpResponse:
    """Titles and messages that hold the words, newest first, with where they stand."""
    given = {name: request.GET.get(name, "").strip() for name in ("q", "since", "until", "model")}
    hits = search.find(
        request.user,
        given["q"],
        since=_date(given["since"]),
        until=_date(given["until"]),
        model=given["model"],
        limit=PER_PAGE,
    )
    context = {"given": given, "hits": hits, "titles": search.titles(request.user, given["q"])}
    return render(request, "chats/search.html", context)
