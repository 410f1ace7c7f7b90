from pathlib import Path

import pytest

from aiia_cli import logs
from aiia_cli.datadir import DataDir
from aiia_cli.errors import UserError

pytestmark = pytest.mark.unit


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path)
    data.prepare()
    data.log("web").write_text("one\ntwo\nthree\n")
    data.log("worker").write_text("four\n")
    return data


def test_last_lines_of_one(data: DataDir) -> None:
    assert list(logs.tail(data, "web", 2, follow=False)) == ["two", "three"]


def test_all_are_told_apart(data: DataDir) -> None:
    assert list(logs.tail(data, None, 1, follow=False)) == ["web    | three", "worker | four"]


def test_follow_goes_on_with_whole_lines(data: DataDir) -> None:
    lines = logs.tail(data, "web", 1, follow=True)
    assert next(lines) == "three"
    with data.log("web").open("a") as log:
        log.write("new\nhalf")
    assert next(lines) == "new"


def test_unknown_role_names_those_there_are(data: DataDir) -> None:
    with pytest.raises(UserError, match=r"No log of 'wep'\. There are: web, worker\."):
        list(logs.tail(data, "wep", 1, follow=False))


def test_rotation_keeps_three_runs(data: DataDir) -> None:
    for run in range(5):
        data.log("web").write_text(f"run {run}")
        logs.rotate(data)
    kept = [data.logs / f"web.log.{number}" for number in (1, 2, 3)]
    assert [log.read_text() for log in kept] == ["run 4", "run 3", "run 2"]
    assert not (data.logs / "web.log.4").exists()
