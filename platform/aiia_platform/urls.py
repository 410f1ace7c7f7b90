from django.urls import path, re_path

from aiia_platform import health, internal, schema
from aiia_platform.accounts import api as accounts
from aiia_platform.catalogue import api as catalogue
from aiia_platform.catalogue.events import events
from aiia_platform.chats import api as chats
from aiia_platform.generations.events import events as answer_events
from aiia_platform.observability import metrics
from aiia_platform.options import api as options
from aiia_platform.usage import api as usage

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", metrics.show, name="metrics"),
    path("internal/keys/verify", internal.verify_key, name="internal-verify-key"),
    path("internal/usage", internal.report_usage, name="internal-usage"),
    path("api/models/", catalogue.Models.as_view(), name="api-models"),
    path("api/models/events/", events, name="api-models-events"),
    path("api/models/catalogue/", catalogue.Catalogue.as_view(), name="api-catalogue"),
    path("api/models/catalogue/<str:name>/", catalogue.CatalogueEntry.as_view(), name="api-catalogue-entry"),
    # Names of remote models may hold slashes, such as "qwen/qwen3-8b".
    re_path(
        r"^api/models/(?P<model_id>.+)/(?P<verb>load|unload|pull|scale)/$",
        catalogue.Action.as_view(),
        name="api-action",
    ),
    path("api/models/<path:model_id>/", catalogue.Model.as_view(), name="api-model"),
    path("api/account/", accounts.Me.as_view(), name="api-account"),
    path("api/account/tokens/", accounts.Tokens.as_view(), name="api-tokens"),
    path("api/account/tokens/<uuid:token_id>/", accounts.TokenDetail.as_view(), name="api-token"),
    path("api/users/", accounts.People.as_view(), name="api-users"),
    path("api/users/<int:user_id>/", accounts.PersonDetail.as_view(), name="api-user"),
    path("api/roles/", accounts.Roles.as_view(), name="api-roles"),
    path("api/roles/<int:role_id>/", accounts.RoleDetail.as_view(), name="api-role"),
    path("api/settings/", options.Settings.as_view(), name="api-settings"),
    path("api/schema/", schema.Describe.as_view(), name="api-schema"),
    path("api/chats/", chats.Chats.as_view(), name="api-chats"),
    path("api/chats/<uuid:chat_id>/", chats.ChatDetail.as_view(), name="api-chat"),
    path("api/chats/<uuid:chat_id>/messages/", chats.Messages.as_view(), name="api-chat-messages"),
    path(
        "api/chats/<uuid:chat_id>/messages/<uuid:message_id>/", chats.MessageDetail.as_view(), name="api-chat-message"
    ),
    path("api/chats/<uuid:chat_id>/messages/<uuid:message_id>/events/", answer_events, name="api-chat-message-events"),
    path("api/chats/<uuid:chat_id>/generate/", chats.Generating.as_view(), name="api-chat-generate"),
    path("api/chats/<uuid:chat_id>/cancel/", chats.Cancelling.as_view(), name="api-chat-cancel"),
    path("api/chats/<uuid:chat_id>/fork/", chats.Forking.as_view(), name="api-chat-fork"),
    path("api/chats/<uuid:chat_id>/duplicate/", chats.Duplicating.as_view(), name="api-chat-duplicate"),
    path("api/files/", chats.Files.as_view(), name="api-files"),
    path("api/files/<uuid:file_id>/", chats.FileContent.as_view(), name="api-file"),
    path("api/search/", chats.Search.as_view(), name="api-search"),
    path("api/llm/status/", chats.Status.as_view(), name="api-llm-status"),
    path("api/llm/models/", chats.LlmModels.as_view(), name="api-llm-models"),
    path("api/usage/", usage.Usage.as_view(), name="api-usage"),
]
