"""`aiia test`: the tiers of tests, each a process of its own, and one closing line for each."""

import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiia_cli.browser import find_browser
from aiia_cli.checkout import checkout
from aiia_cli.errors import UserError

#: In the order of the time they take. All but lint are markers of pytest.
TIERS = ("lint", "unit", "integration", "serving", "e2e")

_CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "--quiet", "."),
    ("mypy",),
    ("lint-imports",),
    ("djlint", "web/aiia_web/templates", "--lint", "--quiet"),
    ("shellcheck", "-x", "aiia", "cli/setup.sh", "requirements/compile", ".ci/run"),
)
# The type checker reads Django's settings, which want these; no service is reached.
_SETTINGS_FOR_CHECKS = {
    "DATABASE_URL": "postgresql:///",
    "AIIA_SECRET_KEY": "only-for-checks",
    "AIIA_INTERNAL_TOKEN": "only-for-checks",
}


@dataclass(frozen=True)
class Result:
    tier: str
    ok: bool
    summary: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.tier:<12} {'passed' if self.ok else 'FAILED'}   {self.summary} in {self.seconds:.0f} s"


def split(arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """(tiers, arguments of pytest). Tiers come first; none means all. Raises `UserError` for a word that is neither."""
    named = list(arguments)
    rest: list[str] = []
    for position, word in enumerate(arguments):
        if word not in TIERS:
            named, rest = list(arguments[:position]), list(arguments[position:])
            break
    if rest and not rest[0].startswith("-") and not Path(rest[0].partition("::")[0]).exists():
        raise UserError(f"There is no tier '{rest[0]}'. There are: {', '.join(TIERS)}.")
    return tuple(tier for tier in TIERS if tier in named) or TIERS, rest


def run_tiers(arguments: Sequence[str]) -> int:
    """Run them and print the closing lines. The exit code: 0 if all passed."""
    root = checkout()
    tiers, pytest_arguments = split(arguments)
    results = []
    for tier in tiers:
        print(f"\n=== {tier}", flush=True)
        started = time.monotonic()
        try:
            ok, summary = _lint(root) if tier == "lint" else _pytest(root, tier, pytest_arguments)
        except UserError as error:
            ok, summary = False, str(error)
        results.append(Result(tier, ok, summary, time.monotonic() - started))
    print()
    for result in results:
        print(result)
    return 0 if all(result.ok for result in results) else 1


def _lint(root: Path) -> tuple[bool, str]:
    failed = []
    for check in _CHECKS:
        name = " ".join(check[:2]) if check[0] == "ruff" else check[0]
        program = _program(check[0])
        print(f"--- {name}", flush=True)
        environment = {**os.environ, **_SETTINGS_FOR_CHECKS}
        if subprocess.run([program, *check[1:]], cwd=root, env=environment, check=False).returncode != 0:
            failed.append(name)
    return not failed, f"{len(_CHECKS)} checks" if not failed else f"of {', '.join(failed)}"


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise UserError(f"{name} is missing. Run: ./aiia setup")
    return found


def _pytest(root: Path, tier: str, arguments: Sequence[str]) -> tuple[bool, str]:
    environment = dict(os.environ)
    if tier == "e2e":
        environment["AIIA_TEST_BROWSER"] = str(find_browser())
    report = root / "test-results" / f"{tier}.xml"
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    where = (
        []
        if any(not word.startswith("-") and Path(root, word.partition("::")[0]).exists() for word in arguments)
        else ["tests"]
    )
    command = [sys.executable, "-m", "pytest", "-m", tier, f"--junitxml={report}", *where, *arguments]
    code = subprocess.run(command, cwd=root, env=environment, check=False).returncode
    return code == 0, _summary(report, code)


def _summary(report: Path, code: int) -> str:
    """Numbers from pytest's report, such as `12 passed, 1 failed`."""
    suite = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None  # noqa: S314  # our own file
    if suite is None:
        return f"pytest ended with exit code {code}"
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    words = {"passed": passed, "failed": counts["failures"], "errors": counts["errors"], "skipped": counts["skipped"]}
    return ", ".join(f"{number} {word}" for word, number in words.items() if number) or "no tests"
