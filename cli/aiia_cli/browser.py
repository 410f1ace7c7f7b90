"""A Chromium for the end-to-end tests: one that is here, or one that may be installed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from aiia_cli.errors import UserError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_INSTALL_TIMEOUT_S = 600


def find_browser() -> Path:
    """The executable of a browser that starts. Raises `UserError` with what to do if none can be had."""
    if wanted := os.environ.get("AIIA_TEST_BROWSER"):
        if starts(Path(wanted)):
            return Path(wanted)
        raise UserError(f"AIIA_TEST_BROWSER names {wanted}, which does not start.")
    sources: tuple[Callable[[], Iterator[Path]], ...] = (
        on_the_path,
        playwrights_own,
        install_playwrights_own,
        install_system_package,
    )
    for source in sources:
        for candidate in source():
            if starts(candidate):
                return candidate
    raise UserError(
        "no browser for the end-to-end tests. Install one, then run ./aiia test e2e again:\n"
        "  Debian:    sudo apt-get install chromium\n"
        "  elsewhere: sudo .venv/bin/python -m playwright install --with-deps chromium\n"
        "or name one: AIIA_TEST_BROWSER=/path/to/chromium ./aiia test e2e"
    )


def starts(executable: Path) -> bool:
    """Whether it runs here at all: a download may lack the system's libraries, a package may be an empty shell."""
    return _succeeds([str(executable), "--version"], 30)


def on_the_path() -> Iterator[Path]:
    """Chromium and Chrome under their usual names."""
    for name in _NAMES:
        if found := shutil.which(name):
            yield Path(found)


def playwrights_own() -> Iterator[Path]:
    """The browser that Playwright has downloaded earlier, if it has."""
    code = (
        "from playwright.sync_api import sync_playwright as p\nwith p() as play: print(play.chromium.executable_path)"
    )
    try:
        result = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return
    if (path := Path(result.stdout.strip())).is_file():
        yield path


def install_playwrights_own() -> Iterator[Path]:
    """The browser that Playwright downloads now; nothing where it cannot."""
    print("downloading a browser for the tests (Playwright's Chromium, about 180 MB) …", flush=True)
    if _succeeds([sys.executable, "-P", "-m", "playwright", "install", "chromium"], _INSTALL_TIMEOUT_S):
        yield from playwrights_own()


def install_system_package() -> Iterator[Path]:
    """Debian's package, where we may install one without being asked for a password."""
    apt = shutil.which("apt-get")
    rights = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if not apt or (rights and not _succeeds([*rights, "true"], 10)):
        return
    print("installing the system's package chromium for the tests …", flush=True)
    install = [*rights, "env", "DEBIAN_FRONTEND=noninteractive", apt, "install", "--yes", "--no-install-recommends"]
    if _succeeds([*install, "chromium"], _INSTALL_TIMEOUT_S) or (
        _succeeds([*rights, apt, "update"], _INSTALL_TIMEOUT_S)
        and _succeeds([*install, "chromium"], _INSTALL_TIMEOUT_S)
    ):
        yield from on_the_path()


def _succeeds(command: list[str], timeout: float) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
