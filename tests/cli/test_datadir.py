import shutil
from pathlib import Path

import pytest

from aiia_cli.datadir import DataDir
from aiia_cli.errors import UserError

pytestmark = pytest.mark.unit


def test_prepare_makes_the_folders(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "some" / "where")
    data.prepare()
    assert data.logs.is_dir()
    assert data.secrets.stat().st_mode & 0o777 == 0o700


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        DataDir(tmp_path / "file" / "data").prepare()


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5 * 1024**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="is full: 5 MB are free"):
        DataDir(tmp_path).prepare()
