from collections.abc import Iterator
from pathlib import Path

import pytest

from aiia_cli import browser
from aiia_cli.errors import UserError

pytestmark = pytest.mark.unit


def nothing() -> Iterator[Path]:
    yield from ()


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No browser, and no right to install one. Returns the one folder on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("AIIA_TEST_BROWSER", raising=False)
    for source in ("playwrights_own", "install_playwrights_own", "install_system_package"):
        monkeypatch.setattr(browser, source, nothing)
    return tmp_path


def program(path: Path, exit_code: int) -> Path:
    path.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    path.chmod(0o755)
    return path


def test_takes_the_first_that_starts(empty_machine: Path) -> None:
    program(empty_machine / "chromium", 1)
    chrome = program(empty_machine / "google-chrome", 0)
    assert browser.find_browser() == chrome


def test_named_browser_has_to_start(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = program(empty_machine / "mine", 1)
    monkeypatch.setenv("AIIA_TEST_BROWSER", str(named))
    with pytest.raises(UserError, match="does not start"):
        browser.find_browser()


def test_says_what_to_do_when_none_can_be_had(empty_machine: Path) -> None:
    with pytest.raises(UserError, match="sudo apt-get install chromium"):
        browser.find_browser()
