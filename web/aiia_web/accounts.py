"""The settings page."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from aiia_platform.accounts.models import ApiKey, User
from aiia_web.access import SignedInRequest, signed_in
from aiia_web.fragments import is_fragment


class ThemeForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the checker only
    class Meta:
        model = User
        fields = ("theme",)
        widgets = {"theme": forms.RadioSelect}


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = ApiKey
        fields = ("name",)
        help_texts = {"name": "Where you will use it, such as “laptop” or “VS Code”"}


def _page(request: SignedInRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    page = {
        "theme_form": ThemeForm(instance=request.user),
        "key_form": KeyForm(),
        "keys": request.user.api_keys.active(),
    }
    template = "components/api_keys.html" if is_fragment(request) else "settings/settings.html"
    return render(request, template, page | context, status=status)


@signed_in
def settings(request: SignedInRequest) -> HttpResponse:
    """Appearance, password and API keys."""
    if request.method != "POST":
        return _page(request)
    form = ThemeForm(request.POST, instance=request.user)
    if not form.is_valid():
        return _page(request, status=422, theme_form=form)
    form.save()
    messages.success(request, "Saved")
    return redirect("settings")


@signed_in
@require_POST
def sidebar(request: SignedInRequest) -> HttpResponse:
    """Keep whether the sidebar is open."""
    User.objects.filter(pk=request.user.pk).update(sidebar_open=bool(request.POST.get("open")))
    if is_fragment(request):
        return HttpResponse(status=204)
    return redirect("new-chat")


@signed_in
@require_POST
def create_key(request: SignedInRequest) -> HttpResponse:
    """Make an API key. The answer to this request is the only place that ever shows it."""
    form = KeyForm(request.POST)
    if not form.is_valid():
        return _page(request, status=422, key_form=form)
    key, secret = ApiKey.create(request.user, form.cleaned_data["name"])
    response = _page(request, status=201, key=key, secret=secret)
    response["Cache-Control"] = "no-store"
    return response


@signed_in
def revoke_key(request: SignedInRequest, key_id: UUID) -> HttpResponse:
    """Ask, then revoke."""
    key = get_object_or_404(request.user.api_keys.active(), pk=key_id)
    if request.method == "POST":
        key.revoke()
        messages.success(request, f"Revoked “{key.name}”")
        return redirect("settings")
    template = "settings/revoke_dialog.html" if is_fragment(request) else "settings/revoke.html"
    return render(request, template, {"key": key})
