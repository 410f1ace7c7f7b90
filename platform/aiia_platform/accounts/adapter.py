"""How allauth makes our users, and who may become one."""

import logging
from smtplib import SMTPException
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest

from aiia_platform.accounts.models import User
from aiia_platform.options.models import current
from aiia_platform.sealed import seal, unseal

log = logging.getLogger(__name__)

#: The one issuer of single sign-on, in addresses.
PROVIDER_ID = "sso"


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth has no types
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return User.objects.may_register()

    def save_user(self, request: HttpRequest, user: User, form: Any, commit: bool = True) -> User:
        super().save_user(request, user, form, commit=False)
        return user.register(must_wait=current("signup") == "approval") if commit else user

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """What the person wanted is done without the mail, and they are told that it did not go."""
        try:
            super().send_mail(template_prefix, email, context)
        except (OSError, SMTPException) as error:
            log.error("mail could not be sent: %s", error)
            if self.request:
                messages.error(self.request, "Mail could not be sent. Tell an administrator, then ask for it again")

    def get_from_email(self) -> str:
        return str(current("mail_from"))


class MfaAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Secrets of second factors are sealed in the database."""

    def encrypt(self, text: str) -> str:
        return seal(text)

    def decrypt(self, encrypted_text: str) -> str:
        return unseal(encrypted_text)


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Single sign-on with the issuer that the options name."""

    def list_apps(self, request: HttpRequest, provider: str | None = None, client_id: str | None = None) -> list[Any]:
        # Its models are there only after the applications have been loaded.
        from allauth.socialaccount.models import SocialApp

        app = SocialApp(
            provider="openid_connect",
            provider_id=PROVIDER_ID,
            name=current("oidc_name"),
            client_id=current("oidc_client_id"),
            secret=current("oidc_client_secret"),
            settings={"server_url": current("oidc_issuer"), "oauth_pkce_enabled": True},
        )
        is_meant = provider in (None, app.provider, PROVIDER_ID) and client_id in (None, app.client_id)
        return [app] if current("oidc_issuer") and is_meant else []

    @transaction.atomic
    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        person: User = sociallogin.user
        AccountAdapter(request).populate_username(request, person)
        person.set_unusable_password()
        person.register(must_wait=current("signup") == "approval")
        super().save_user(request, sociallogin, form)
        return person
