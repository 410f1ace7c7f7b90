"""What `aiia up` and `aiia status` show."""

import sys

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aiia_cli.record import InstanceRecord, ModelRecord

_AT_REST = ("stopped", "waiting", "registered", "cold")
_STYLES = {"ready": "green", "failed": "bold red", **dict.fromkeys(_AT_REST, "dim")}
_MARKS = {"ready": "●", "failed": "✗", **dict.fromkeys(_AT_REST, "○")}


def rows(record: InstanceRecord) -> list[tuple[str, str, str]]:
    """(name, state, detail) of each role and each model."""
    found = [(name, role["state"], role["detail"]) for name, role in record["roles"].items()]
    return found + [(f"model {model['id']}", model["state"], _model_detail(model)) for model in record["models"]]


def _model_detail(model: ModelRecord) -> str:
    eta = model.get("eta_s")
    about = f"about {eta:.0f} s left" if eta and model["state"] != "ready" else ""
    return ", ".join(part for part in (model.get("reason"), about) if part)


def headline(record: InstanceRecord) -> str:
    """One sentence on the whole instance."""
    web = record["roles"].get("web")
    if record["state"] == "failed":
        return "aiia did not start"
    if record["state"] == "stopping":
        return "aiia is stopping; Ctrl-C again hurries it"
    if record["state"] == "stopped":
        return "aiia has stopped; the data stays"
    if web and web["state"] == "ready":
        return f"aiia is at {record['address']}"
    return f"aiia is starting, and will be at {record['address']}"


def render(record: InstanceRecord) -> RenderableType:
    """The whole status as one screen."""
    table = Table.grid(padding=(0, 2))
    for name, state, detail in rows(record):
        style = _STYLES.get(state, "yellow")
        table.add_row(Text(f"  {_MARKS.get(state, '◐')} {name}", style), Text(state, style), Text(detail, "dim"))
    title = Text(f"\n  {headline(record)}", "bold")
    return Group(title, Text(f"  data in {record['data_dir']}\n", "dim"), table)


class Screen:
    """Follows an instance: one screen that is redrawn on a terminal, a line for each change elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._last: dict[str, tuple[str, str]] = {}
        self._last_headline = ""
        if self._console.is_terminal:
            # Without a thread of its own: the supervisor forks.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def show(self, record: InstanceRecord) -> None:
        if self._live:
            self._live.update(render(record), refresh=True)
            return
        for name, state, detail in rows(record):
            # An estimate counts down every second; that alone is no news, nor is what has not begun.
            news = (state, detail.partition("about ")[0])
            if state != "waiting" and self._last.get(name) != news:
                self._last[name] = news
                print(f"{name}: {state}" + (f" ({detail})" if detail else ""), flush=True)
        if (line := headline(record)) != self._last_headline:
            self._last_headline = line
            print(line, flush=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()
        sys.stdout.flush()
