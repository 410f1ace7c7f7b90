import argparse
import sys

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_email
from django.db import IntegrityError

from aiia_platform.accounts.models import User


class Command(BaseCommand):
    help = "Make a user whose password comes from standard input."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", required=True)
        parser.add_argument("--password-stdin", action="store_true", required=True)
        parser.add_argument("--admin", action=argparse.BooleanOptionalAction, default=False)

    def handle(self, *args: object, **options: object) -> None:
        email = str(options["email"]).strip().lower()
        password = sys.stdin.readline().rstrip("\r\n")
        user = User(email=email, username=email)
        try:
            validate_email(email)
            validate_password(password, user)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        user.is_staff = user.is_superuser = bool(options["admin"])
        user.set_password(password)
        try:
            user.register()
            user.vouch()
        except IntegrityError:
            raise CommandError(f"A user with the address {email} exists.") from None
        self.stderr.write(f"{email} can log in{' as an administrator' if user.is_superuser else ''}.")
