from pathlib import Path

import pytest

from aiia_cli import tiers
from aiia_cli.errors import UserError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (tiers.TIERS, [])),
        (["unit"], (("unit",), [])),
        (["e2e", "lint"], (("lint", "e2e"), [])),
        (["unit", "-k", "name", "-x"], (("unit",), ["-k", "name", "-x"])),
        (["-x"], (tiers.TIERS, ["-x"])),
    ],
)
def test_tiers_come_first_the_rest_is_pytests(arguments: list[str], expected: tuple[object, object]) -> None:
    assert tiers.split(arguments) == expected


def test_unknown_tier() -> None:
    with pytest.raises(UserError, match=r"There is no tier 'units'\. There are: lint, unit"):
        tiers.split(["units"])


def test_closing_lines_and_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lint(root: Path) -> tuple[bool, str]:
        return True, "6 checks"

    def run(root: Path, tier: str, arguments: list[str]) -> tuple[bool, str]:
        if tier == "e2e":
            raise UserError("no browser")
        return True, "3 passed"

    monkeypatch.setattr(tiers, "_lint", lint)
    monkeypatch.setattr(tiers, "_pytest", run)
    assert tiers.run_tiers(["lint", "unit"]) == 0
    assert tiers.run_tiers([]) == 1
    closing = capsys.readouterr().out.splitlines()[-5:]
    assert closing[0] == "lint         passed   6 checks in 0 s"
    assert closing[4] == "e2e          FAILED   no browser in 0 s"


def test_numbers_come_from_the_report(tmp_path: Path) -> None:
    report = tmp_path / "unit.xml"
    report.write_text('<testsuites><testsuite tests="5" failures="1" errors="0" skipped="1"/></testsuites>')
    assert tiers._summary(report, 1) == "3 passed, 1 failed, 1 skipped"
    assert tiers._summary(tmp_path / "none.xml", 4) == "pytest ended with exit code 4"
