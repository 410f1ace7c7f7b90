"""Every address of the web app."""

from django.urls import include, path

from aiia_web import accounts, catalogue, chats, errors, generations, styleguide

urlpatterns = [
    path("", include("aiia_platform.urls")),
    path("accounts/", include("allauth.urls")),
    path("", chats.new, name="new-chat"),
    path("chats/", chats.index, name="chats"),
    path("chats/<uuid:chat_id>/", chats.show, name="chat"),
    path("chats/<uuid:chat_id>/messages/", chats.send, name="chat-send"),
    path("chats/<uuid:chat_id>/delete/", chats.delete, name="chat-delete"),
    path("generations/<uuid:generation_id>/events/", generations.events, name="generation-events"),
    path("generations/<uuid:generation_id>/stop/", generations.stop, name="generation-stop"),
    path("generations/<uuid:generation_id>/retry/", generations.retry, name="generation-retry"),
    path("models/state/", catalogue.state, name="models-state"),
    path("settings/", accounts.settings, name="settings"),
    path("settings/sidebar/", accounts.sidebar, name="settings-sidebar"),
    path("settings/keys/", accounts.create_key, name="key-create"),
    path("settings/keys/<uuid:key_id>/revoke/", accounts.revoke_key, name="key-revoke"),
    path("styleguide/", styleguide.show, name="styleguide"),
]

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler500 = errors.server_error
