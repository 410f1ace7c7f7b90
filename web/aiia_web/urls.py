"""Every address of the web app."""

from django.urls import include, path, re_path

from aiia_web import (
    accounts,
    administration,
    api_docs,
    catalogue,
    chats,
    diagrams,
    errors,
    generations,
    models_page,
    offline,
    people,
    shortcuts,
    single_sign_on,
    styleguide,
    transfer,
)

urlpatterns = [
    path("", include("aiia_platform.urls")),
    # Before allauth's own, which does not expect that the issuer is away.
    path("accounts/oidc/<str:provider_id>/login/", single_sign_on.login, name="sso-login"),
    path("accounts/", include("allauth.urls")),
    path("", chats.new, name="new-chat"),
    path("chats/", chats.index, name="chats"),
    path("chats/<uuid:chat_id>/", chats.show, name="chat"),
    path("chats/<uuid:chat_id>/messages/", chats.send, name="chat-send"),
    path("chats/<uuid:chat_id>/delete/", chats.delete, name="chat-delete"),
    path("", include("aiia_web.chat_urls")),
    path("files/<uuid:file_id>/", chats.file, name="file"),
    path("chats/import/", transfer.take_in, name="chats-import"),
    path("chats/export/", transfer.export_all, name="chats-export"),
    path("chats/<uuid:chat_id>/export.<slug:kind>", transfer.export, name="chat-export"),
    path("generations/<uuid:generation_id>/events/", generations.events, name="generation-events"),
    path("generations/<uuid:generation_id>/stop/", generations.stop, name="generation-stop"),
    path("generations/<uuid:generation_id>/retry/", generations.retry, name="generation-retry"),
    path("models/", models_page.index, name="models"),
    path("models/state/", catalogue.state, name="models-state"),
    path("models/catalogue/<str:name>/add/", models_page.add, name="model-add"),
    # Names of remote models may hold slashes, such as "qwen/qwen3-8b".
    re_path(r"^models/(?P<model_id>.+)/(?P<verb>load|unload)/$", models_page.act, name="model-act"),
    path("models/<path:model_id>/remove/", models_page.remove, name="model-remove"),
    path("models/<path:model_id>/scale/", models_page.scale, name="model-scale"),
    path("settings/", accounts.settings, name="settings"),
    path("settings/profile/", accounts.profile, name="settings-profile"),
    path("settings/avatar/", accounts.avatar, name="avatar"),
    path("settings/models/", accounts.models, name="settings-models"),
    path("settings/sidebar/", accounts.sidebar, name="settings-sidebar"),
    path("settings/keys/", accounts.create_key, name="key-create"),
    path("settings/keys/<uuid:key_id>/revoke/", accounts.revoke_key, name="key-revoke"),
    path("api/docs/", api_docs.show, name="api-docs"),
    path("admin/users/", people.users, name="admin-users"),
    path("admin/users/new/", people.new_user, name="admin-new-user"),
    path("admin/users/<int:person_id>/", people.user, name="admin-user"),
    path("admin/users/<int:person_id>/password/", people.password, name="admin-password"),
    path("admin/users/<int:person_id>/approve/", people.approve, name="admin-approve"),
    path("admin/users/<int:person_id>/close/", people.close, name="admin-close"),
    path("admin/roles/", people.roles, name="admin-roles"),
    path("admin/roles/new/", people.role, name="admin-new-role"),
    path("admin/roles/<int:role_id>/", people.role, name="admin-role"),
    path("admin/roles/<int:role_id>/remove/", people.remove_role, name="admin-remove-role"),
    path("admin/settings/", administration.settings, name="admin-settings"),
    path("shortcuts/", shortcuts.show, name="shortcuts"),
    path("diagrams/", diagrams.frame, name="diagrams"),
    path("offline/", offline.page, name="offline"),
    path("offline.js", offline.script, name="offline-script"),
    path("styleguide/", styleguide.show, name="styleguide"),
]

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler429 = errors.too_many  # allauth's own addition
handler500 = errors.server_error
