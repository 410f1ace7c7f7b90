"""The `aiia` command line: each command is a thin function over a module that works without it."""

import json
import os
import signal
import sys
from typing import Annotated

import typer
from rich.console import Console

from aiia_cli import admin, doctor, logs, models, record, up
from aiia_cli import screen as screens
from aiia_cli.arguments import DataDirOption, JsonOption, data_of
from aiia_cli.checkout import set_up
from aiia_cli.errors import UserError
from aiia_cli.options import Options
from aiia_cli.tiers import run_tiers

#: As service managers have it: the command worked, and the service does not run.
_NOT_RUNNING = 3

app = typer.Typer(
    name="aiia",
    help="A private AI workspace on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
admin_app = typer.Typer(help="Users and keys, for scripted installs.", no_args_is_help=True)
app.add_typer(admin_app, name="admin")
app.add_typer(models.app, name="models")


@app.command("up")
def up_command(
    data_dir: DataDirOption,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page and the API.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    no_models: Annotated[bool, typer.Option("--no-models", help="Run no models on this machine.")] = False,
    openai_base_url: Annotated[
        str,
        typer.Option(
            envvar="OPENAI_BASE_URL",
            help="An OpenAI-compatible endpoint (LM Studio, Ollama, llama.cpp) whose models all appear.",
        ),
    ] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return once the page answers, and go on running.")] = False,
) -> None:
    """Start everything and show how it is doing. Ctrl-C stops it; data stays."""
    options = Options(data_of(data_dir), host, port, no_models, openai_base_url)
    if detach:
        print(f"aiia is at {up.run_detached(options)}")
    else:
        up.run(options)


@app.command()
def status(data_dir: DataDirOption, as_json: JsonOption = False) -> None:
    """Show each process and model of a running instance. Exit code 3 if none runs."""
    current = record.running(data_of(data_dir))
    if as_json:
        print(json.dumps({"running": current is not None, **(record.public(current) if current else {})}, indent=2))
    elif current:
        Console(highlight=False).print(screens.render(current))
    else:
        print(f"aiia is not running on {data_dir}.")
    if current is None:
        raise typer.Exit(_NOT_RUNNING)


@app.command("doctor")
def doctor_command(data_dir: DataDirOption, as_json: JsonOption = False) -> None:
    """Say what is wrong or why something waits, and what to do. Exit code 1 if something is wrong."""
    found = doctor.examine(data_of(data_dir))
    if as_json:
        print(json.dumps([finding._asdict() for finding in found], indent=2))
    else:
        for line in doctor.lines(found):
            print(line)
    raise typer.Exit(doctor.exit_code(found))


@app.command()
def stop(data_dir: DataDirOption) -> None:
    """Stop a running instance, in order. Data stays."""
    was_running = up.stop(data_of(data_dir))
    print("aiia has stopped." if was_running else f"aiia is not running on {data_dir}.")


@app.command("logs")
def logs_command(
    data_dir: DataDirOption,
    role: Annotated[
        str | None, typer.Argument(help="web, worker, manager, models, postgres or redis; all if left out.")
    ] = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many lines of each.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
) -> None:
    """Show the logs."""
    for line in logs.tail(data_of(data_dir), role, lines, follow=follow):
        print(line, flush=follow)


@app.command()
def setup() -> None:
    """Install or renew what aiia needs, without starting it."""
    set_up()


@app.command("test", context_settings={"ignore_unknown_options": True})
def run_tests(
    tiers: Annotated[
        list[str] | None, typer.Argument(help="lint, unit, integration, serving, e2e; all if left out.")
    ] = None,
) -> None:
    """Run the tests. What follows -- goes to pytest."""
    raise typer.Exit(run_tiers(tiers or []))


@admin_app.command("create-user")
def create_user(
    data_dir: DataDirOption,
    email: Annotated[str, typer.Option(help="The user's address, also the name to log in with.")],
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")],
    is_admin: Annotated[bool, typer.Option("--admin", help="Make the user an administrator.")] = False,
) -> None:
    """Make a user."""
    if not password_stdin:
        raise UserError("The password comes on standard input: add --password-stdin.")
    arguments = ["create_user", "--email", email, "--password-stdin", *(["--admin"] if is_admin else [])]
    admin.run_platform_command(data_of(data_dir), arguments, sys.stdin.read())
    print(f"{email} can log in{' as an administrator' if is_admin else ''}.", file=sys.stderr)


@admin_app.command("create-token")
def create_token(
    data_dir: DataDirOption,
    email: Annotated[str, typer.Option(help="The user whose key it is.")],
    name: Annotated[str, typer.Option(help="What the user will know the key by.")],
) -> None:
    """Make an API key, and print it alone. It is shown this once."""
    print(admin.run_platform_command(data_of(data_dir), ["create_token", "--email", email, "--name", name]), end="")


def main() -> None:
    """Entry point. A `UserError` is shown without a stack trace."""
    try:
        app()
    except UserError as error:
        _say(str(error))
        sys.exit(1)
    except BrokenPipeError:  # `aiia logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if os.environ.get("AIIA_TRACEBACK"):
            raise
        _say(f"an error of aiia itself: {type(error).__name__}: {error}\nAIIA_TRACEBACK=1 shows where.")
        sys.exit(1)


def _say(message: str) -> None:
    for line in message.splitlines():
        print(f"aiia: {line}", file=sys.stderr)
