from django.core.management.base import BaseCommand, CommandError, CommandParser

from aiia_platform.accounts.models import ApiKey, User


class Command(BaseCommand):
    help = "Make an API key for a user and print it; it cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", required=True)
        parser.add_argument("--name", required=True)

    def handle(self, *args: object, **options: object) -> None:
        user = User.objects.filter(email__iexact=str(options["email"])).first()
        if user is None:
            raise CommandError(f"No user has the address {options['email']}. Make one with create-user.")
        _, secret = ApiKey.create(user, str(options["name"]))
        self.stdout.write(secret)
