from pathlib import Path

import pytest

from aiia_cli.credentials import secret

pytestmark = pytest.mark.unit


def test_made_once_and_kept_for_the_owner_alone(tmp_path: Path) -> None:
    first = secret(tmp_path, "key").read_text()
    assert len(first) == 64
    assert secret(tmp_path, "key").read_text() == first
    assert secret(tmp_path, "key").stat().st_mode & 0o777 == 0o600
    assert secret(tmp_path, "other").read_text() != first


def test_half_made_secret_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "key.partial").write_text("ab")
    assert len(secret(tmp_path, "key").read_text()) == 64
