"""`aiia models`: the models of an instance, as a client of its API."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from aiia_cli import models_view as view
from aiia_cli.arguments import DataDirOption, JsonOption, data_of
from aiia_cli.client import Client, NotRunning, connect
from aiia_cli.datadir import DataDir
from aiia_cli.environment import model_folders
from aiia_cli.errors import UserError

_ASK_EVERY_S = 0.5
#: A download shows in a model's state a moment after it was asked for; one that does not by then is not needed.
_SETTLED_S = 2.0

app = typer.Typer(help="Models: which there are, which fit, and what they do.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The model's name, as `aiia models list` shows it.")]
Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="AIIA_URL", help="Another instance's address; AIIA_API_KEY is an administrator's key."
    ),
]


@app.command("list")
def list_models(data_dir: DataDirOption, url: Url = "", as_json: JsonOption = False) -> None:
    """Show each model with its state, replicas and queue."""
    found = connect(data_of(data_dir), url).get("/api/models/")
    _print(found, as_json, lambda: view.models(found["models"]))


@app.command()
def fit(data_dir: DataDirOption, url: Url = "", as_json: JsonOption = False) -> None:
    """Show the ready documents and which of them this machine can hold. Works also when nothing runs."""
    try:
        answer = connect(data_of(data_dir), url).get("/api/models/catalogue/")
    except NotRunning:
        answer = _own_catalogue(data_of(data_dir))
    _print(answer, as_json, lambda: view.catalogue(answer))


@app.command()
def add(name: Name, data_dir: DataDirOption, url: Url = "", as_json: JsonOption = False) -> None:
    """Add a model from the catalogue, which downloads and starts it."""
    client = connect(data_of(data_dir), url)
    client.send("POST", f"/api/models/catalogue/{name}/")
    _done(name, "added, and is on its way. Watch it: aiia models events -f", as_json)


@app.command()
def remove(name: Name, data_dir: DataDirOption, url: Url = "", as_json: JsonOption = False) -> None:
    """Remove a model that was added. Its last requests are answered first; downloaded files stay."""
    connect(data_of(data_dir), url).send("DELETE", f"/api/models/{name}/")
    _done(name, "removed", as_json)


@app.command()
def load(name: Name, data_dir: DataDirOption, url: Url = "", as_json: JsonOption = False) -> None:
    """Start a model and keep it running."""
    connect(data_of(data_dir), url).send("POST", f"/api/models/{name}/load/")
    _done(name, "loading", as_json)


@app.command()
def unload(name: Name, data_dir: DataDirOption, url: Url = "", as_json: JsonOption = False) -> None:
    """Stop a model once it has answered its requests, until it is loaded again."""
    connect(data_of(data_dir), url).send("POST", f"/api/models/{name}/unload/")
    _done(name, "unloading", as_json)


@app.command()
def scale(
    name: Name,
    data_dir: DataDirOption,
    least: Annotated[int | None, typer.Option("--min", min=0, help="Replicas at least; 0 lets it sleep.")] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, help="Replicas at most.")] = None,
    url: Url = "",
    as_json: JsonOption = False,
) -> None:
    """Set how many replicas a model may have."""
    bounds = {"min_replicas": least, "max_replicas": most}
    wanted = {key: value for key, value in bounds.items() if value is not None}
    if not wanted:
        raise UserError("Say how many: --min N, --max N, or both.")
    connect(data_of(data_dir), url).send("POST", f"/api/models/{name}/scale/", wanted)
    _done(name, "scaled", as_json)


@app.command()
def pull(name: Name, data_dir: DataDirOption, url: Url = "", as_json: JsonOption = False) -> None:
    """Download a model's files, and wait until they are there."""
    client = connect(data_of(data_dir), url)
    client.send("POST", f"/api/models/{name}/pull/")
    _follow_download(client, name)
    _done(name, "files are here", as_json)


@app.command()
def events(
    data_dir: DataDirOption,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
    url: Url = "",
    as_json: Annotated[bool, typer.Option("--json", help="One object per line.")] = False,
) -> None:
    """Show what happened to models."""
    client = connect(data_of(data_dir), url)
    known = client.get("/api/models/events/")

    def show(event: dict[str, Any]) -> None:
        print(json.dumps(event) if as_json else view.event(event), flush=follow)

    for event in known["events"]:
        show(event)
    if follow:
        for event in client.events("/api/models/events/", known["last"]):
            show(event)


def _follow_download(client: Client, name: str) -> None:
    """Shows the progress until there is nothing more to download. Raises `UserError` if that failed."""
    shown, quiet_since = "", time.monotonic()
    while time.monotonic() - quiet_since < _SETTLED_S:
        model = client.get(f"/api/models/{name}/")
        if model["state"] == "failed":
            raise UserError(f"{name}: {model['reason'] or 'the download failed'}")
        # One that is ready goes on with its old files until the new ones are there.
        goes_on = model["state"] == "ready" and model["progress"] is not None
        if goes_on or model["state"] in {"downloading", "registered"}:
            quiet_since = time.monotonic()
            if (words := view.detail(model).partition(", about")[0]) != shown:
                print(f"{name}: {words or model['state']}", file=sys.stderr, flush=True)
                shown = words
        elif shown:
            return
        time.sleep(_ASK_EVERY_S)


def _own_catalogue(data: DataDir) -> Any:
    """The catalogue as this machine's serving package makes it, in a process of its own."""
    command = [sys.executable, "-P", "-m", "aiia_serving", "catalogue"]
    environment = {**os.environ, "AIIA_MODELS_DIR": os.pathsep.join(map(str, model_folders(data)))}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = next((line for line in reversed(result.stderr.splitlines()) if line.strip()), "")
        raise UserError(f"The catalogue cannot be read here: {last or f'exit code {result.returncode}'}")
    return json.loads(result.stdout)


def _print(answer: Any, as_json: bool, lines: Callable[[], Any]) -> None:
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        for line in lines():
            print(line)


def _done(name: str, words: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"model": name, "done": words.partition(",")[0]}))
    else:
        print(f"{name}: {words}", file=sys.stderr)
