"""Error pages: what happened, what to do, a button that does it."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from aiia_platform.problems import problem
from aiia_web.fragments import is_fragment, toast
from aiia_web.unsent import keep_refused


def _error(request: HttpRequest, status: int, title: str, advice: str) -> HttpResponse:
    if _is_api(request):
        return problem(status, title, advice)
    if is_fragment(request):
        return toast(request, status, f"{title}. {advice}")
    return render(request, "error.html", {"title": title, "advice": advice, "status": status}, status=status)


def _is_api(request: HttpRequest) -> bool:
    """Whether a program asks, for which a page is no answer."""
    return request.path.startswith("/api/")


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(request, 400, "This request makes no sense to the server", "Go back and try again")


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(request, 403, "This is not open to you", "Log in with another account")


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(request, 404, "There is nothing here", "It was deleted, or the address has a mistake")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    if answer := keep_refused(request):
        return answer
    # Happens to a form that was open while its owner signed in or out, or to a browser without cookies.
    return _error(request, 403, "This form is out of date", "Go back, reload the page and send it again")


def too_many(request: HttpRequest) -> HttpResponse:
    return _error(request, 429, "Too many tries", "Wait a minute, then try again")


def unavailable(request: HttpRequest, title: str, advice: str) -> HttpResponse:
    """Another server, which this page needs, does not answer."""
    return _error(request, 502, title, advice)


def server_error(request: HttpRequest) -> HttpResponse:
    if _is_api(request):
        return problem(500, "An error of aiia itself", "Nothing that was accepted is lost. The log says more.")
    # Without the context of a page: whatever broke may be what makes it.
    return render(None, "500.html", status=500)
