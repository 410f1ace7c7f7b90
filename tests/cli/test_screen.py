import pytest
from rich.console import Console

from aiia_cli.record import InstanceRecord
from aiia_cli.screen import Screen, headline, render

pytestmark = pytest.mark.unit


def instance() -> InstanceRecord:
    return {
        "pid": 1,
        "started": 0.0,
        "state": "starting",
        "error": "",
        "address": "http://127.0.0.1:8000",
        "data_dir": "/data",
        "database_url": "",
        "redis_url": "",
        "roles": {
            "web": {"pid": 2, "port": 8000, "state": "ready", "detail": "after 1.2 s", "restarts": 0},
            "worker": {
                "pid": None,
                "port": None,
                "state": "failed",
                "detail": "killed by SIGKILL; starting again in 2 s",
                "restarts": 3,
            },
        },
        "models": [{"id": "tiny", "state": "starting", "reason": "Loading weights", "eta_s": 20.6}],
        "processes": [],
    }


def test_screen_names_each_role_and_model_and_why() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render(instance()))
    shown = capture.get()
    assert "aiia is at http://127.0.0.1:8000" in shown
    assert "killed by SIGKILL; starting again in 2 s" in shown
    assert "Loading weights, about 21 s left" in shown


def test_headline_promises_the_address_before_the_page_is_up() -> None:
    record = instance()
    record["roles"]["web"]["state"] = "starting"
    assert headline(record) == "aiia is starting, and will be at http://127.0.0.1:8000"


def test_without_a_terminal_each_change_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen, record = Screen(), instance()
    screen.show(record)
    capsys.readouterr()
    screen.show(record)
    record["models"][0]["eta_s"] = 19
    screen.show(record)
    record["roles"]["worker"].update(state="ready", detail="")
    screen.show(record)
    assert capsys.readouterr().out == "worker: ready\n"
