"""How allauth makes our users, and who may become one."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest

from aiia_platform.accounts.models import User
from aiia_platform.options.models import current


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth has no types
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return User.objects.may_register()

    def save_user(self, request: HttpRequest, user: User, form: Any, commit: bool = True) -> User:
        super().save_user(request, user, form, commit=False)
        return user.register(must_wait=current("signup") == "approval") if commit else user

    def get_from_email(self) -> str:
        return str(current("mail_from"))
