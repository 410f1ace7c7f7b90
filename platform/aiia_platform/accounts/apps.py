from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "aiia_platform.accounts"
