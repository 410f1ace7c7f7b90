from django.apps import AppConfig


class ChatsConfig(AppConfig):
    name = "aiia_platform.chats"
