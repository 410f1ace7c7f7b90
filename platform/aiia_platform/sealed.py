"""Secrets that have to be read again, such as passwords of other servers: encrypted under the installation's key."""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken

from aiia_platform.config import config


def _box() -> Fernet:
    digest = hashlib.sha256(b"aiia sealed secrets\0" + config().secret_key.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


def seal(secret: str) -> str:
    return _box().encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """The secret; '' when the installation's key is another one since."""
    try:
        return _box().decrypt(sealed.encode()).decode()
    except InvalidToken:
        return ""
