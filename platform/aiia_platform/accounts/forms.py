"""Sign-up and login."""

from typing import Any

from allauth.account.forms import LoginForm as AllauthLoginForm
from allauth.account.forms import SignupForm as AllauthSignupForm

from aiia_platform.options.models import current


class LoginForm(AllauthLoginForm):  # type: ignore[misc]  # allauth has no types
    """Without a link in the help of a field; the page has it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password"].help_text = ""


class SignupForm(AllauthSignupForm):  # type: ignore[misc]  # allauth has no types
    """A username or an email address, one is enough, and a password."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"].label = "Email"
        self.fields["username"].required = self.fields["email"].required = False

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean()
        if current("email_verification") == "mandatory" and not (data.get("email") or self.errors):
            self.add_error("email", "Give an email address. A link to confirm it will come there.")
        if not (data.get("username") or data.get("email") or self.errors):
            self.add_error("email", "Give an email address or a username.")
        return data
