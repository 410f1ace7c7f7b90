from django.apps import AppConfig


class AfterwordsConfig(AppConfig):
    name = "aiia_platform.afterwords"
