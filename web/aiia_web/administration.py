"""The settings of the installation, for administrators."""

from itertools import groupby
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render

from aiia_platform.options.models import Setting, StoredOption, all_settings
from aiia_platform.options.registry import Value
from aiia_web.access import SignedInRequest, administrators

_ORIGINS = {"default": "Default", "page": "This page", "environment": "Environment"}


class SettingsForm(forms.Form):
    """A field per option that the page may decide. An empty one goes back to the default; an empty secret stays."""

    def __init__(self, settings: list[Setting], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = {setting.option.name: setting for setting in settings if not setting.is_fixed}
        for name, setting in self._settings.items():
            self.fields[name] = _field(setting)

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        for name, setting in self._settings.items():
            if data.get(name) in (None, ""):
                data[name] = ""
                continue
            try:
                data[name] = setting.option.parse(str(data[name]))
            except ValueError as error:
                self.add_error(name, str(error))
        return data

    @property
    def changes(self) -> dict[str, Value | None]:
        """What differs from what is stored, as `StoredOption.change` takes it."""
        changed: dict[str, Value | None] = {}
        for name, setting in self._settings.items():
            given, stored = self.cleaned_data.get(name, ""), dict(setting.origins).get("page")
            if setting.option.is_secret:
                if given:
                    changed[name] = given
            elif given in ("", setting.option.default):
                if stored is not None:
                    changed[name] = None
            elif given != stored:
                changed[name] = given
        return changed


class Line:
    """An option as the page shows it: its values with their origins, and its field unless the environment decides."""

    def __init__(self, setting: Setting, form: SettingsForm) -> None:
        self.option = setting.option
        self.is_fixed = setting.is_fixed
        self.field = None if setting.is_fixed else form[setting.option.name]
        self.values = [
            (_ORIGINS[origin], setting.option.words(value), origin == setting.origin)
            for origin, value in setting.origins
        ]


@administrators
def settings(request: SignedInRequest) -> HttpResponse:
    """Every setting: its value, where it comes from, and which value wins."""
    known = all_settings()
    form = SettingsForm(known, request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        StoredOption.change(form.changes, request.user)
        messages.success(request, "Saved")
        return redirect("admin-settings")
    groups = [
        (name, [Line(setting, form) for setting in group])
        for name, group in groupby(known, lambda setting: setting.option.group)
    ]
    context = {"form": form, "groups": groups, "tab": "settings"}
    return render(request, "admin/settings.html", context, status=422 if form.errors else 200)


def _field(setting: Setting) -> forms.Field:
    option = setting.option
    common: dict[str, Any] = {"label": option.title, "required": False, "help_text": option.help}
    if option.choices:
        return forms.ChoiceField(choices=option.choices, initial=setting.value, **common)
    if option.is_secret:
        common["help_text"] = option.help or "Empty: the one that is set stays"
        return forms.CharField(widget=forms.PasswordInput(attrs={"autocomplete": "off"}), **common)
    if isinstance(option.default, int):
        return forms.IntegerField(min_value=option.minimum, max_value=option.maximum, initial=setting.value, **common)
    return forms.CharField(max_length=500, initial=setting.value, **common)
