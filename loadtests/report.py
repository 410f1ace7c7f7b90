"""Tables of docs/benchmarks.md, each between marks that name the script that writes it."""

import os
import time

import psutil

from tests.fakes import ROOT


def write(name: str, text: str, page: str = "benchmarks.md") -> None:
    """Puts ``text`` between the marks of ``name`` in a page of docs/; both have to be there.

    The name is the script's in loadtests/, with a word after it where that has several places.
    """
    path = ROOT / "docs" / page
    start, end = f"<!-- {name}: written by loadtests/{name.split()[0]}.py -->", f"<!-- /{name} -->"
    before, found, rest = path.read_text().partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"docs/{page} has no marks for {name}")
    path.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}")


def machine() -> str:
    """The day and the machine, with what else it was doing in the three seconds of the call."""
    busy = psutil.cpu_percent(interval=3)
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {busy:.0f} % of them busy with other things"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    marks = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))


def percentile(values: list[float], percent: int) -> float:
    """A value of ``values``, or NaN if there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")
