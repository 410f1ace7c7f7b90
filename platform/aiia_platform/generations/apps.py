from django.apps import AppConfig


class GenerationsConfig(AppConfig):
    name = "aiia_platform.generations"
