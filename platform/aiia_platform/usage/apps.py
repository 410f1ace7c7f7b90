from django.apps import AppConfig


class UsageConfig(AppConfig):
    name = "aiia_platform.usage"
