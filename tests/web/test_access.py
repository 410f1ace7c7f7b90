"""Nobody sees or changes what is somebody else's, at any address there is."""

import uuid
from collections.abc import Iterator

import pytest
from allauth.mfa.models import Authenticator
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from aiia_platform.accounts.models import ApiKey, Role, User
from aiia_platform.chats.models import Attachment, Chat, Message
from aiia_platform.generations.models import Generation

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]


def _patterns(resolver: URLResolver | None = None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every address there is, with its name."""
    for entry in (resolver or get_resolver()).url_patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLPattern):
            yield path, entry.name or ""
        else:
            yield from _patterns(entry, path)


#: Addresses with something of somebody's in them, from the configuration itself, so that a new one cannot be forgotten.
WITH_IDS = sorted({name for path, name in _patterns() if "<" in path})
#: What belongs to everybody is there for everybody, and administrators alone see or change it.
SHARED = {
    "admin-approve",
    "admin-close",
    "admin-password",
    "admin-remove-role",
    "admin-role",
    "admin-user",
    "api-role",
    "api-user",
    "model-act",
    "model-remove",
    "model-scale",
}
#: Models are everybody's to see, and administrators' to change.
MODELS = {"api-action", "api-catalogue-entry", "api-model", "model-add"}
#: Whoever has such an address may use it: it is a secret that went by mail, or names no person.
PUBLIC = {
    "account_confirm_email",
    "account_reset_password_from_key",
    "openid_connect_callback",
    "openid_connect_login",
    "sso-login",
}
OWNED = [name for name in WITH_IDS if name not in SHARED | MODELS | PUBLIC]
OPEN = {"healthz", "readyz", "internal-verify-key", "styleguide"}


@pytest.fixture
def addresses(user: User) -> dict[str, str]:
    """Every address of an object of the user, and of what is shared."""
    generation = Chat.send(user=user, chat_id=uuid.uuid4(), message_id=uuid.uuid4(), text="Hello", model="m")
    chat, key = f"/chats/{generation.message.chat_id}/", ApiKey.create(user, "laptop")[0]
    answer = f"/generations/{generation.id}/"
    passkey = Authenticator.objects.create(user=user, type=Authenticator.Type.WEBAUTHN, data={"name": "laptop"})
    role = Role.objects.create(name="Heavy")
    person = f"/admin/users/{user.pk}/"
    message = f"/messages/{generation.message_id}/"
    on_chats = ("archive", "draft", "duplicate", "edit", "pin", "restore", "stop")
    on_messages = ("again", "choose", "delete", "edit", "fork", "gauge", "restore", "sent")
    api = f"/api/chats/{generation.message.chat_id}/"
    return {
        "api-chat": api,
        "api-chat-message": f"{api}messages/{generation.message_id}/",
        "api-chat-message-events": f"{api}messages/{generation.message_id}/events/",
        **{f"api-chat-{verb}": f"{api}{verb}/" for verb in ("messages", "generate", "cancel", "fork", "duplicate")},
        **{f"chat-{verb}": f"{chat}{verb}/" for verb in on_chats},
        "chat-export": f"{chat}export.md",
        "api-file": f"/api/files/{Attachment.store(user, 'a.txt', b'a').pk}/",
        "file": f"/files/{Attachment.store(user, 'a.txt', b'a').pk}/",
        **{f"message-{verb}": f"{message}{verb}/" for verb in on_messages},
        "admin-approve": f"{person}approve/",
        "admin-close": f"{person}close/",
        "admin-password": f"{person}password/",
        "admin-remove-role": f"/admin/roles/{role.pk}/remove/",
        "admin-role": f"/admin/roles/{role.pk}/",
        "admin-user": person,
        "api-role": f"/api/roles/{role.pk}/",
        "api-token": f"/api/account/tokens/{key.id}/",
        "api-user": f"/api/users/{user.pk}/",
        "chat": chat,
        "chat-send": f"{chat}messages/",
        "chat-delete": f"{chat}delete/",
        "generation-events": f"{answer}events/",
        "generation-stop": f"{answer}stop/",
        "generation-retry": f"{answer}retry/",
        "key-revoke": f"/settings/keys/{key.id}/revoke/",
        "mfa_edit_webauthn": f"/accounts/2fa/webauthn/keys/{passkey.pk}/edit/",
        "mfa_remove_webauthn": f"/accounts/2fa/webauthn/keys/{passkey.pk}/remove/",
        "model-act": "/models/qwen3-8b/load/",
        "model-remove": "/models/qwen3-8b/remove/",
        "model-scale": "/models/qwen3-8b/scale/",
    }


def test_every_address_with_an_id_is_known_here(addresses: dict[str, str]) -> None:
    assert set(addresses) == set(OWNED) | SHARED


@pytest.mark.parametrize("name", sorted({*OWNED, *SHARED}))
@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_a_stranger_finds_nothing(addresses: dict[str, str], stranger: User, name: str, method: str) -> None:
    client = Client()
    client.force_login(stranger)
    # As far as somebody can get who knows their own password.
    client.post("/accounts/reauthenticate/", {"password": "correct horse battery"})
    form = {"text": "Hi", "model": "m", "message_id": str(uuid.uuid4())}
    before = _state()
    as_json = {"content_type": "application/json"} if method == "post" and name.startswith("api-") else {}
    response = getattr(client, method)(addresses[name], form if method in ("get", "post") else {}, **as_json)
    # An endpoint refuses who is no administrator before it looks which verbs there are.
    assert response.status_code in ((403, 405) if name in SHARED else (404, 405))
    assert _state() == before


def _state() -> list[object]:
    """What a stranger may not change."""
    return [
        list(table.objects.order_by("pk").values())
        for table in (Chat, Message, Generation, ApiKey, Authenticator, Role)
    ] + [User.objects.get(username="ada").password, User.objects.get(username="ada").is_active]


def test_a_stranger_cannot_reuse_a_message_id(user: User, stranger: User) -> None:
    generation = Chat.send(user=user, chat_id=uuid.uuid4(), message_id=uuid.uuid4(), text="Hello", model="m")
    client = Client()
    client.force_login(stranger)
    form = {"text": "Hi", "model": "m", "message_id": str(generation.message.parent_id)}
    assert client.post(f"/chats/{uuid.uuid4()}/messages/", form).status_code == 404


@pytest.mark.parametrize("name", sorted({*OWNED, *SHARED}))
def test_who_is_signed_out_is_sent_to_the_login(addresses: dict[str, str], name: str) -> None:
    response = Client().get(addresses[name])
    if name == "generation-events" or name.startswith("api-"):
        assert response.status_code == 401
    elif response.status_code == 302:
        assert response["Location"].startswith("/accounts/login/")
    else:
        # One that only takes forms may say so first.
        assert response.status_code in (401, 405)
    if not name.startswith("mfa_"):
        fragment = Client(headers={"HX-Request": "true"}).post(addresses[name])
        assert fragment.status_code in (401, 405)


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/chats/",
        "/settings/",
        "/settings/avatar/",
        "/admin/users/",
        "/admin/settings/",
        "/api/docs/",
        "/models/",
        "/models/state/",
        "/settings/sidebar/",
        "/settings/keys/",
    ],
)
def test_pages_without_ids_want_a_login_too(db: None, address: str) -> None:
    assert Client().get(address)["Location"] == f"/accounts/login/?next={address}"


def test_forms_want_a_token(user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    response = client.post("/settings/", {"theme": "dark"})
    assert response.status_code == 403
    assert "This form is out of date" in response.content.decode()
