"""Users and roles, for administrators."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.password_validation import validate_password
from django.core.paginator import Paginator
from django.db import IntegrityError, transaction
from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from aiia_platform.accounts.models import LastAdministrator, Role, User
from aiia_platform.config import config
from aiia_platform.usage.quotas import used_today
from aiia_web.access import SignedInRequest, administrators
from aiia_web.fragments import is_fragment

PAGE = 50
_QUOTAS = {
    "daily_tokens": ("Tokens per day", "Empty: as the role says, or the installation. 0: as many as they like"),
    "daily_gpu_seconds": ("GPU seconds per day", "The same for images"),
}


class PersonForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the checker only
    role = forms.ModelChoiceField(Role.objects.all(), required=False, empty_label="None")

    class Meta:
        model = User
        fields = ("role", "is_staff", "daily_tokens", "daily_gpu_seconds")
        labels = {"is_staff": "Administrator", **{name: words[0] for name, words in _QUOTAS.items()}}
        help_texts = {"is_staff": "", **{name: words[1] for name, words in _QUOTAS.items()}}


class NewPersonForm(forms.ModelForm):  # type: ignore[type-arg]
    password = forms.CharField(widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}))

    class Meta:
        model = User
        fields = ("username", "email", "role", "is_staff")
        labels = {"is_staff": "Administrator", "email": "Email"}
        help_texts = {"username": "", "is_staff": ""}

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        validate_password(password)
        return password

    def save(self, commit: bool = True) -> User:
        person: User = super().save(commit=False)
        person.set_password(self.cleaned_data["password"])
        person.is_superuser = person.is_staff
        person.register()
        person.vouch()
        return person


class PasswordForm(forms.Form):
    password = forms.CharField(label="New password", widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}))

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        validate_password(password)
        return password


class RoleForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Role
        fields = ("name", "may_use_api", "daily_tokens", "daily_gpu_seconds")
        labels = {name: words[0] for name, words in _QUOTAS.items()}
        help_texts = {"daily_tokens": "Empty: as the installation says. 0: as many as they like"}


@administrators
@require_safe
def users(request: SignedInRequest) -> HttpResponse:
    """All accounts, those first that wait to be let in. `?q=` searches, `?show=` is `waiting`, `closed` or nothing."""
    query, show = request.GET.get("q", "").strip().replace("\0", ""), request.GET.get("show", "")
    found = User.objects.select_related("role").order_by("-is_waiting", "username")
    if query:
        found = found.filter(Q(username__icontains=query) | Q(email__icontains=query))
    if show == "waiting":
        found = found.filter(is_waiting=True)
    elif show == "closed":
        found = found.filter(is_active=False, is_waiting=False)
    page = Paginator(found, PAGE).get_page(request.GET.get("page"))
    context = {"page": page, "query": query, "show": show, "tab": "users"}
    return render(request, "admin/users.html", context)


@administrators
def new_user(request: SignedInRequest) -> HttpResponse:
    """Make an account for somebody."""
    form = NewPersonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            with transaction.atomic():
                person = form.save()
        except IntegrityError:
            form.add_error(None, "Somebody took this name or address just now.")
        else:
            messages.success(request, f"Made {person.username}")
            return redirect("admin-users")
    return render(request, "admin/new_user.html", {"form": form, "tab": "users"}, status=422 if form.errors else 200)


@administrators
def user(request: SignedInRequest, person_id: int) -> HttpResponse:
    """One account: its role, its shares, its password."""
    person = get_object_or_404(User.objects.select_related("role"), pk=person_id)
    form = PersonForm(request.POST or None, instance=person)
    if request.method == "POST" and form.is_valid():
        try:
            person.change(**form.cleaned_data)
        except LastAdministrator:
            form.add_error("is_staff", "There has to be an administrator.")
        else:
            messages.success(request, "Saved")
            return redirect("admin-user", person.pk)
    return _person(request, person, form=form)


@administrators
@require_POST
def password(request: SignedInRequest, person_id: int) -> HttpResponse:
    """Give somebody a new password."""
    person = get_object_or_404(User, pk=person_id)
    form = PasswordForm(request.POST)
    if not form.is_valid():
        return _person(request, person, password_form=form)
    person.set_password(form.cleaned_data["password"])
    person.save(update_fields=["password"])
    messages.success(request, f"{person.username} has a new password")
    return redirect("admin-user", person.pk)


@administrators
@require_POST
def approve(request: SignedInRequest, person_id: int) -> HttpResponse:
    """Let in who waits, or who was closed out."""
    person = get_object_or_404(User, pk=person_id)
    person.approve()
    messages.success(request, f"{person.username} can log in")
    return redirect("admin-user", person.pk)


@administrators
def close(request: SignedInRequest, person_id: int) -> HttpResponse:
    """Ask, then let in no more."""
    person = get_object_or_404(User, pk=person_id)
    if request.method == "POST":
        try:
            person.close()
        except LastAdministrator:
            messages.error(request, "There has to be an administrator")
        else:
            messages.success(request, f"Closed the account of {person.username}")
        return redirect("admin-user", person.pk)
    template = "admin/close_dialog.html" if is_fragment(request) else "admin/close.html"
    return render(request, template, {"person": person})


@administrators
@require_safe
def roles(request: SignedInRequest) -> HttpResponse:
    """All roles with how many have them."""
    found = Role.objects.annotate(people=Count("users"))
    return render(request, "admin/roles.html", {"roles": found, "tab": "roles"})


@administrators
def role(request: SignedInRequest, role_id: int | None = None) -> HttpResponse:
    """Make or change a role."""
    known = get_object_or_404(Role, pk=role_id) if role_id else None
    form = RoleForm(request.POST or None, instance=known)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Saved")
        return redirect("admin-roles")
    context = {"form": form, "role": known, "tab": "roles"}
    return render(request, "admin/role.html", context, status=422 if form.errors else 200)


@administrators
def remove_role(request: SignedInRequest, role_id: int) -> HttpResponse:
    """Ask, then remove; who has it stands without one."""
    known = get_object_or_404(Role, pk=role_id)
    if request.method == "POST":
        known.delete()
        messages.success(request, f"Removed the role {known.name}")
        return redirect("admin-roles")
    template = "admin/remove_role_dialog.html" if is_fragment(request) else "admin/remove_role.html"
    return render(request, template, {"role": known})


def _person(request: SignedInRequest, person: User, **forms_: Any) -> HttpResponse:
    context = {
        "person": person,
        "form": PersonForm(instance=person),
        "password_form": PasswordForm(),
        "used": used_today(person),
        "currency": config().currency,
        "keys": person.api_keys.active().count(),
        "tab": "users",
    } | forms_
    is_wrong = any(form.errors for form in forms_.values())
    return render(request, "admin/user.html", context, status=422 if is_wrong else 200)
