"""The options that there are. Each has a default; its environment variable wins over it and over the page."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

Value = str | int | bool

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option. Its type is that of its default; `choices` are `(value, words)`."""

    name: str
    group: str
    title: str
    default: Value
    help: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    minimum: int = 0
    maximum: int = 10**12
    is_secret: bool = False

    @property
    def variable(self) -> str:
        return f"AIIA_{self.name.upper()}"

    def parse(self, text: str) -> Value:
        """What a text of the environment or of a form means. Raises `ValueError` with words for its writer."""
        text = text.strip()
        if isinstance(self.default, bool):
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError("Give 1 or 0.")
            return text.lower() in _TRUE
        if isinstance(self.default, int):
            if not text.isdecimal() or not self.minimum <= int(text) <= self.maximum:
                raise ValueError(f"Give a whole number from {self.minimum} to {self.maximum}.")
            return int(text)
        if self.choices and text not in dict(self.choices):
            raise ValueError(f"Give one of: {', '.join(value for value, _ in self.choices)}.")
        return text

    def from_environment(self, environ: Mapping[str, str] = os.environ) -> Value | None:
        """Its variable's value; None when it is not set. A secret may come from the file that `…_FILE` names."""
        if self.is_secret and (file := environ.get(f"{self.variable}_FILE")):
            return self.parse(Path(file).read_text())
        given = environ.get(self.variable)
        return None if given is None else self.parse(given)

    def words(self, value: Value) -> str:
        """A value as people read it."""
        if self.is_secret:
            return "set" if value else "not set"
        if isinstance(self.default, bool):
            return "on" if value else "off"
        return dict(self.choices).get(str(value)) or str(value) or "empty"


_ACCESS, _MAIL, _OIDC, _LIMITS = "Access", "Mail", "Single sign-on (OpenID Connect)", "Limits"
_AFTERWORDS = "After an answer"

OPTIONS = {
    option.name: option
    for option in (
        Option(
            name="signup",
            group=_ACCESS,
            title="Registration",
            default="open",
            choices=(
                ("open", "Open to everybody"),
                ("approval", "An administrator approves each account"),
                ("closed", "Closed"),
            ),
            help="The first account is always let in, and is an administrator",
        ),
        Option(
            name="email_verification",
            group=_ACCESS,
            title="Email addresses",
            default="optional",
            choices=(
                ("none", "Not checked"),
                ("optional", "Checked by mail, without waiting for it"),
                ("mandatory", "Required, and checked by mail before the first login"),
            ),
        ),
        Option(
            name="mail",
            group=_MAIL,
            title="Mail goes",
            default="file",
            choices=(
                ("file", "Into files in the data directory"),
                ("console", "Into the log"),
                ("smtp", "To an SMTP server"),
            ),
            help="Links to confirm an address or to reset a password go by mail",
        ),
        Option(name="mail_from", group=_MAIL, title="Sender", default="aiia@localhost"),
        Option(name="smtp_host", group=_MAIL, title="SMTP server", default="localhost"),
        Option(name="smtp_port", group=_MAIL, title="SMTP port", default=587, minimum=1, maximum=65535),
        Option(
            name="smtp_security",
            group=_MAIL,
            title="Encryption",
            default="starttls",
            choices=(("starttls", "STARTTLS"), ("tls", "TLS from the start"), ("none", "None")),
        ),
        Option(name="smtp_user", group=_MAIL, title="SMTP user", default=""),
        Option(name="smtp_password", group=_MAIL, title="SMTP password", default="", is_secret=True),
        Option(
            name="oidc_issuer",
            group=_OIDC,
            title="Issuer",
            default="",
            help="Its address, such as https://id.example.org/realms/main. Empty: no single sign-on",
        ),
        Option(name="oidc_name", group=_OIDC, title="Name on the button", default="Single sign-on"),
        Option(name="oidc_client_id", group=_OIDC, title="Client id", default=""),
        Option(name="oidc_client_secret", group=_OIDC, title="Client secret", default="", is_secret=True),
        Option(
            name="api_rate",
            group=_LIMITS,
            title="API requests per user and minute",
            default=600,
            minimum=1,
            maximum=1_000_000,
        ),
        Option(
            name="daily_tokens",
            group=_LIMITS,
            title="Tokens per user and day",
            default=0,
            help="0: as many as they like. Roles and users may have their own figure",
        ),
        Option(
            name="daily_gpu_seconds",
            group=_LIMITS,
            title="GPU seconds per user and day",
            default=0,
            help="0: as many as they like. Counts images",
        ),
        Option(
            name="titles",
            group=_AFTERWORDS,
            title="Titles by a model",
            default=True,
            help="Everybody can switch it off for themselves, as they can the next two",
        ),
        Option(name="tags", group=_AFTERWORDS, title="Tags by a model", default=True),
        Option(name="follow_ups", group=_AFTERWORDS, title="Questions to go on with", default=True),
        Option(
            name="afterword_model",
            group=_AFTERWORDS,
            title="Model that writes them",
            default="",
            help="Its id. Empty: the one that answered",
        ),
    )
}


def check_environment() -> None:
    """Raises `ImproperlyConfigured` with a line per variable that is wrong."""
    problems = []
    for option in OPTIONS.values():
        try:
            option.from_environment()
        except (ValueError, OSError) as error:
            problems.append(f"{option.variable}: {error}")
    if problems:
        raise ImproperlyConfigured("\n".join(problems))


def origins(option: Option, stored: Any) -> list[tuple[str, Value]]:
    """Every value that an option has, as `(origin, value)`; the last one is in effect. `stored` is None without one."""
    found: list[tuple[str, Value]] = [("default", option.default)]
    if stored is not None:
        found.append(("page", stored))
    if (given := option.from_environment()) is not None:
        found.append(("environment", given))
    return found
