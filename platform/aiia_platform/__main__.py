"""`python -m aiia_platform <command>`: Django's management commands, `worker` among them."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiia_platform.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(["aiia_platform", *sys.argv[1:]])


if __name__ == "__main__":
    main()
