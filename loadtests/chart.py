"""Line charts as SVG, drawn by hand: hours of a day against seconds on a logarithmic scale."""

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path

_COLOURS = ("#2563eb", "#d97706", "#475569")
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 460, 300, 56, 62, 44
_LOW, _HIGH = 0.1, 1000.0


@dataclass(frozen=True)
class Panel:
    """``lines``: name, which ends in the percentile, to (hour, seconds); two of a colour, the first dashed."""

    title: str
    lines: dict[str, list[tuple[float, float]]]


def draw(path: Path, title: str, panels: list[Panel]) -> None:
    """Writes the panels side by side, with one legend."""
    width = _LEFT + len(panels) * (_WIDTH + _GAP)
    height = _TOP + _HEIGHT + 64
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15" font-weight="600" fill="#0f172a">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(_LEFT + number * (_WIDTH + _GAP), panel)
    parts += _legend(list(panels[0].lines), height - 16)
    parts.append("</svg>")
    path.write_text("\n".join(parts) + "\n")


def _y(seconds: float) -> float:
    share = math.log(max(min(seconds, _HIGH), _LOW) / _LOW) / math.log(_HIGH / _LOW)
    return _TOP + _HEIGHT * (1 - share)


def _panel(left: float, panel: Panel) -> list[str]:
    parts = [f'<text x="{left}" y="{_TOP - 10}" fill="#0f172a">{escape(panel.title)}</text>']
    for seconds, label in ((0.1, "≤ 0.1 s"), (1, "1 s"), (10, "10 s"), (100, "100 s"), (1000, "1000 s")):
        y = _y(seconds)
        parts.append(f'<path d="M{left} {y:.1f}h{_WIDTH}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#475569">{label}</text>')
    for hour in range(0, 25, 4):
        x = left + _WIDTH * hour / 24
        parts.append(
            f'<text x="{x:.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle" fill="#475569">{hour}:00</text>'
        )
    for number, points in enumerate(panel.lines.values()):
        path = " ".join(f"{left + _WIDTH * hour / 24:.1f},{_y(seconds):.1f}" for hour, seconds in points)
        parts.append(f'<polyline points="{path}" fill="none" {_stroke(number)}/>')
    return parts


def _legend(names: list[str], y: float) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        x = _LEFT + number * 150
        parts.append(f'<path d="M{x} {y - 4}h26" {_stroke(number)}/>')
        parts.append(f'<text x="{x + 32}" y="{y}" fill="#0f172a">{escape(name)}</text>')
    return parts


def _stroke(number: int) -> str:
    dashes = 'stroke-dasharray="3 3"' if number % 2 == 0 else 'stroke-width="2"'
    return f'stroke="{_COLOURS[number // 2]}" {dashes}'
