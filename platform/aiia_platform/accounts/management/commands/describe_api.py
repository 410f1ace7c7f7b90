import yaml
from django.core.management.base import BaseCommand

from aiia_platform.schema import document


class Command(BaseCommand):
    help = "Print the description of the REST API, as docs/api/openapi.yaml keeps it."

    def handle(self, *args: object, **options: object) -> None:
        self.stdout.write(yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=120), ending="")
