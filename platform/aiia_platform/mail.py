"""Where mail goes, as the options say at the moment of sending."""

from collections.abc import Sequence

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.console import EmailBackend as Console
from django.core.mail.backends.filebased import EmailBackend as Files
from django.core.mail.backends.smtp import EmailBackend as Smtp

from aiia_platform.config import config
from aiia_platform.options.models import current

#: Seconds that an SMTP server gets.
PATIENCE = 10


class Backend(BaseEmailBackend):
    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            message.from_email = current("mail_from")
        return self._chosen().send_messages(email_messages) or 0

    def _chosen(self) -> BaseEmailBackend:
        match current("mail"):
            case "console":
                return Console()
            case "smtp":
                security = current("smtp_security")
                return Smtp(
                    host=current("smtp_host"),
                    port=current("smtp_port"),
                    username=current("smtp_user"),
                    password=current("smtp_password"),
                    use_tls=security == "starttls",
                    use_ssl=security == "tls",
                    timeout=PATIENCE,
                )
        folder = config().data_dir / "mail"
        # Who reads it may reset passwords.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Files(file_path=str(folder))
