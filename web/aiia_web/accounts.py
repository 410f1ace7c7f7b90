"""The settings page: how pages look, who one is, what chats begin with, and API keys."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from aiia_platform.accounts.models import ApiKey, Scope, User, UserProfile
from aiia_platform.accounts.pictures import Unusable
from aiia_platform.config import config
from aiia_platform.options.models import current
from aiia_platform.usage.quotas import used_today
from aiia_web.access import SignedInRequest, signed_in
from aiia_web.catalogue import Picker
from aiia_web.fragments import is_fragment

#: What a model may write after an answer; see `UserSettings.AFTERWORDS`.
AFTERWORDS = {
    "titles": "A model gives chats their titles",
    "tags": "A model gives them tags",
    "follow_ups": "A model suggests questions to go on with",
    "temporary": "The same in temporary chats",
}


class AppearanceForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the checker only
    text_size = forms.ChoiceField(label="Text", choices=UserProfile.TextSize, widget=forms.RadioSelect, required=False)
    width = forms.ChoiceField(label="Column", choices=UserProfile.Width, widget=forms.RadioSelect, required=False)

    class Meta:
        model = User
        fields = ("theme",)
        widgets = {"theme": forms.RadioSelect}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("text_size", "width"):
            self.fields[name].initial = self.instance.about.preferences.get(name, "normal")

    def save(self, commit: bool = True) -> User:
        user: User = super().save(commit)
        about = user.about
        chosen = {name: self.cleaned_data[name] for name in ("text_size", "width")}
        about.preferences = {**about.preferences, **{name: value for name, value in chosen.items() if value}}
        about.save()
        return user


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg]
    picture = forms.FileField(
        label="Picture",
        required=False,
        help_text="PNG, JPEG, WebP or GIF, up to 10 MB. Its middle is shown",
        widget=forms.FileInput(attrs={"accept": "image/png,image/jpeg,image/webp,image/gif"}),
    )
    remove = forms.BooleanField(label="Remove the picture", required=False)

    class Meta:
        model = UserProfile
        fields = ("bio",)
        labels = {"bio": "About you"}
        widgets = {"bio": forms.Textarea(attrs={"rows": 3})}

    field_order = ("picture", "remove", "bio")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance.avatar_at:
            del self.fields["remove"]

    def save(self, commit: bool = True) -> UserProfile:
        profile: UserProfile = super().save(commit)
        if picture := self.cleaned_data["picture"]:
            profile.show(picture.read())
        elif self.cleaned_data.get("remove"):
            profile.show(b"")
        return profile


class ModelForm(forms.Form):
    """What new chats begin with. Empty: what the model itself prefers."""

    field_order = ("model",)

    system_prompt = forms.CharField(
        max_length=20_000, required=False, widget=forms.Textarea(attrs={"rows": 3}), help_text="Comes before each chat"
    )
    temperature = forms.FloatField(
        min_value=0, max_value=2, required=False, help_text="From 0, the most likely words, to 2, surprising ones"
    )
    top_p = forms.FloatField(label="Top P", min_value=0, max_value=1, required=False)
    max_tokens = forms.IntegerField(
        label="Longest answer", min_value=1, max_value=1_000_000, required=False, help_text="In tokens"
    )

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        chosen = user.choices.llm_preferences
        super().__init__(*args, **kwargs)
        self.initial = chosen
        self._user = user
        models = [(model.id, model.title) for model in Picker().models]
        if (model := chosen.get("model")) and model not in dict(models):
            models.append((model, f"{model} (not there now)"))
        choices = [("", "The first one that is ready"), *models]
        self.fields["model"] = forms.ChoiceField(choices=choices, required=False)
        self.order_fields(self.field_order)
        offered = [name for name in AFTERWORDS if name == "temporary" or current(name)]
        # Temporary chats alone are nothing to choose.
        for name in offered if len(offered) > 1 else []:
            initial = user.choices.wants_afterword(name)
            self.fields[name] = forms.BooleanField(label=AFTERWORDS[name], required=False, initial=initial)

    def save(self) -> None:
        choices, given = self._user.choices, dict(self.cleaned_data)
        choices.afterwords = {**choices.afterwords, **{name: given.pop(name) for name in AFTERWORDS if name in given}}
        choices.llm_preferences = {name: value for name, value in given.items() if value is not None and value != ""}
        choices.save()


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]
    DAYS = (("30", "30 days"), ("90", "90 days"), ("365", "A year"), ("", "Never"))

    scopes = forms.MultipleChoiceField(
        label="It may",
        choices=Scope.choices,
        initial=[Scope.MODELS, Scope.READ, Scope.WRITE],
        widget=forms.CheckboxSelectMultiple,
    )
    days = forms.ChoiceField(label="Expires", choices=DAYS, required=False, initial="90")

    class Meta:
        model = ApiKey
        fields = ("name",)
        help_texts = {"name": "Where you will use it, such as “laptop” or “VS Code”"}

    @property
    def ends_at(self) -> Any:
        """When the key is to expire; None for never."""
        days = self.cleaned_data["days"]
        return timezone.now() + timedelta(days=int(days)) if days else None


def _page(request: SignedInRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    user = request.user
    page: dict[str, Any] = {"key_form": KeyForm(), "keys": user.api_keys.active()}
    if is_fragment(request):
        return render(request, "components/api_keys.html", page | context, status=status)
    page |= {
        "appearance_form": AppearanceForm(instance=user),
        "profile_form": ProfileForm(instance=user.about),
        "model_form": ModelForm(user),
        "used": used_today(user),
        "currency": config().currency,
        "limits": {name: user.limit(name) for name in ("daily_tokens", "daily_gpu_seconds")},
    }
    return render(request, "settings/settings.html", page | context, status=status)


@signed_in
def settings(request: SignedInRequest) -> HttpResponse:
    """All sections; posting saves the appearance."""
    if request.method != "POST":
        return _page(request)
    form = AppearanceForm(request.POST, instance=request.user)
    if not form.is_valid():
        return _page(request, status=422, appearance_form=form)
    form.save()
    return _saved(request)


@signed_in
@require_POST
def profile(request: SignedInRequest) -> HttpResponse:
    """Save the picture and what one says of oneself."""
    form = ProfileForm(request.POST, request.FILES, instance=request.user.about)
    if form.is_valid():
        try:
            form.save()
        except Unusable as error:
            form.add_error("picture", str(error))
        else:
            return _saved(request)
    return _page(request, status=422, profile_form=form)


@signed_in
@require_safe
def avatar(request: SignedInRequest) -> HttpResponse:
    """One's own picture."""
    picture = UserProfile.objects.filter(user=request.user).exclude(avatar_at=None).first()
    if picture is None:
        raise Http404
    response = HttpResponse(bytes(picture.avatar), content_type="image/webp")
    # Its address changes with it.
    response["Cache-Control"] = "private, max-age=31536000, immutable"
    response["X-Content-Type-Options"] = "nosniff"
    return response


@signed_in
@require_POST
def models(request: SignedInRequest) -> HttpResponse:
    """Save what new chats begin with."""
    form = ModelForm(request.user, request.POST)
    if not form.is_valid():
        return _page(request, status=422, model_form=form)
    form.save()
    return _saved(request)


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
    if not request.user.may_use_api:
        raise PermissionDenied
    form = KeyForm(request.POST)
    if not form.is_valid():
        return _page(request, status=422, key_form=form)
    key, secret = ApiKey.create(request.user, form.cleaned_data["name"], form.cleaned_data["scopes"], form.ends_at)
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


def _saved(request: SignedInRequest) -> HttpResponse:
    messages.success(request, "Saved")
    return redirect("settings")
