from django.apps import AppConfig


class OptionsConfig(AppConfig):
    name = "aiia_platform.options"

    def ready(self) -> None:
        from aiia_platform.options.registry import check_environment

        check_environment()
