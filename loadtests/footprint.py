"""What processes hold over time: memory, open files and sockets, and whether that grows."""

import csv
import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Self

import psutil
from scipy import stats  # type: ignore[import-untyped]

#: Parts of the models' process tree, by what their command lines have; the first that fits.
_PARTS = [
    ("replica of ", re.compile(r"ServeReplica:([\w.-]+)")),
    ("engine of vLLM", re.compile(r"EngineCore")),
    ("Serve controller", re.compile(r"ServeController")),
    ("Serve proxy", re.compile(r"ProxyActor|HAProxyManager")),
    ("HAProxy", re.compile(r"haproxy")),
    ("Ray", re.compile(r"raylet|gcs_server|dashboard|runtime_env|ray")),
]


@dataclass
class Sample:
    """Sums over the processes of one role. Sizes in bytes; ``uss`` is what ending them would free."""

    at_s: float
    role: str
    processes: int = 0
    rss: int = 0
    uss: int = 0
    files: int = 0
    sockets: int = 0

    def add(self, process: psutil.Process) -> None:
        with suppress(psutil.Error, OSError):
            rss, uss = _memory(process.pid)
            files, sockets = process.num_fds(), len(process.net_connections("inet"))
            self.processes += 1
            self.rss += rss
            self.uss += uss
            self.files += files
            self.sockets += sockets


def samples(at_s: float, roles: Mapping[str, int]) -> list[Sample]:
    """One sample per role of ``roles`` (name to process id), of the models' tree one per part."""
    found: dict[str, Sample] = {}
    for role, pid in roles.items():
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                name = _part(process) if role == "models" and process.pid != pid else role
                found.setdefault(name, Sample(at_s, name)).add(process)
    return list(found.values())


def _memory(pid: int) -> tuple[int, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"]


def _part(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        command = " ".join(process.cmdline())
        for name, pattern in _PARTS:
            if match := pattern.search(command):
                return name + (match[1] if pattern.groups else "")
    return "Ray"


@dataclass(frozen=True)
class Trend:
    """A line through values over time: its slope per hour and the half width of its 95 % confidence interval."""

    slope: float
    error: float

    @classmethod
    def of(cls, hours: list[float], values: list[float]) -> Self:
        """Neighbouring samples resemble each other, so each counts only as much as their correlation lets it."""
        fit = stats.linregress(hours, values)
        left = [value - fit.intercept - fit.slope * hour for hour, value in zip(hours, values, strict=True)]
        square = sum(value * value for value in left)
        if square < 1e-9:
            return cls(0.0, 0.0)
        together = min(max(sum(a * b for a, b in itertools.pairwise(left)) / square, 0.0), 0.99)
        independent = max(3.0, len(values) * (1 - together) / (1 + together))
        widening = math.sqrt((len(values) - 2) / (independent - 2)) if independent > 2 else math.inf
        return cls(fit.slope, float(stats.t.ppf(0.975, independent - 2)) * fit.stderr * widening)

    def is_flat(self, tolerated: float) -> bool:
        """Whether it may be 0, or is at most ``tolerated`` per hour. What shrinks keeps nothing either."""
        return self.slope <= max(self.error, tolerated)


@dataclass
class Footprint:
    """All samples of a run, by role; written to a file as they come."""

    file: Path
    by_role: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def take(self, taken: Iterable[Sample]) -> None:
        new = not self.file.exists()
        with self.file.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow([column.name for column in fields(Sample)])
            for sample in taken:
                self.by_role[sample.role].append(sample)
                writer.writerow(astuple(sample))

    def rows(self, after_s: float, tolerated_mb: float) -> list[list[str]]:
        """Per role: processes, RSS and USS in MB (median), their slopes in MB/h, files and sockets first and last."""
        return [
            _row(role, kept, tolerated_mb)
            for role, taken in self.by_role.items()
            # A process that came and went says nothing about growth.
            if len(kept := [sample for sample in taken if sample.at_s >= after_s]) >= max(8, len(taken) // 2)
        ]


HEAD = ["role", "processes", "RSS (MB)", "RSS slope (MB/h)", "USS (MB)", "USS slope (MB/h)", "flat", "files", "sockets"]


def _row(role: str, taken: list[Sample], tolerated_mb: float) -> list[str]:
    hours = [sample.at_s / 3600 for sample in taken]
    rss, uss = ([getattr(sample, name) / 1e6 for sample in taken] for name in ("rss", "uss"))
    trends = [Trend.of(hours, values) for values in (rss, uss)]
    tenth = max(1, len(taken) // 10)
    ends = [
        [statistics.median(getattr(sample, name) for sample in part) for part in (taken[:tenth], taken[-tenth:])]
        for name in ("files", "sockets")
    ]
    return [
        role,
        f"{statistics.median(sample.processes for sample in taken):.0f}",
        *(
            cell
            for values, trend in zip((rss, uss), trends, strict=True)
            for cell in (f"{statistics.median(values):.0f}", f"{trend.slope:+.2f} ± {trend.error:.2f}")
        ),
        "yes" if all(trend.is_flat(tolerated_mb) for trend in trends) else "no",
        *(f"{first:.0f} → {last:.0f}" for first, last in ends),
    ]
