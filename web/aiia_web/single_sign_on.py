"""Login with the issuer that administrators configured."""

import requests
from allauth.socialaccount.providers.openid_connect import views
from django.http import HttpRequest, HttpResponse

from aiia_web.errors import unavailable


def login(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Send the browser to the issuer."""
    try:
        response: HttpResponse = views.login(request, provider_id)
    except (requests.RequestException, KeyError, ValueError):
        return unavailable(request, "Single sign-on does not answer", "Log in with a password, or try again later")
    return response
