"""The sheet of keyboard shortcuts, as a page for who has no keyboard shortcut to open it."""

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from aiia_web.access import SignedInRequest, signed_in


@signed_in
@require_safe
def show(request: SignedInRequest) -> HttpResponse:
    return render(request, "shortcuts.html")
