"""The frame in which a page has its diagrams drawn."""

from csp.constants import NONCE, NONE, SELF
from csp.decorators import csp
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.clickjacking import xframe_options_sameorigin
from django.views.decorators.http import require_safe

#: What draws is large and reads what a model wrote: it has an origin of its own, no network, and its scripts alone.
_POLICY = {
    "default-src": [NONE],
    "script-src": [SELF],
    "style-src": [SELF, NONCE],
    "base-uri": [NONE],
    "form-action": [NONE],
    "frame-ancestors": [SELF],
    "sandbox": ["allow-scripts"],
}


@require_safe
@xframe_options_sameorigin
@csp(_POLICY)  # type: ignore[untyped-decorator]  # its types are those of an older Django
def frame(request: HttpRequest) -> HttpResponse:
    """Takes sources of diagrams as messages, and answers with pictures. See `web/assets/diagrams.js`."""
    return render(request, "diagrams.html")
