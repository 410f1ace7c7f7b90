"""`aiia models` against the real API, in front of a manager."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.site import Site
from tests.fakes.manager import FakeManager
from tests.support import plugin
from tests.support.instance import command, instance_environment
from tests.support.services import RedisServer

pytestmark = pytest.mark.integration


def platform(*arguments: str, stdin: str = "") -> str:
    """A management command on the site's database; its output."""
    result = subprocess.run(
        [sys.executable, "-m", "aiia_platform", *arguments], input=stdin, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


@pytest.fixture(scope="module")
def site(postgres_server: None, redis_server: RedisServer) -> Iterator[Site]:
    """The page's process alone."""
    site = Site(os.environ["DATABASE_URL"], redis_server.url)
    site.gateway.start()
    site.run("migrate", "--verbosity=0")
    site.start_web()
    yield site
    site.kill("web")
    site.gateway.stop()


@pytest.fixture(scope="module")
def admin_key(site: Site) -> str:
    mail = "models-admin@example.org"
    platform("create_user", "--email", mail, "--password-stdin", "--admin", stdin="correct horse battery\n")
    return platform("create_token", "--email", mail, "--name", "test")


@pytest.fixture
def manager() -> Iterator[FakeManager]:
    with FakeManager(plugin.MANAGER_PORT) as running:
        running.set_model("qwen3-8b")
        running.set_model("llama-1b", "cold")
        running.add_to_catalogue("gemma-3-4b")
        yield running


class Aiia:
    """The command, with the site's address and an administrator's key."""

    def __init__(self, site: Site, key: str) -> None:
        self.environment = {**instance_environment(), "AIIA_URL": site.url, "AIIA_API_KEY": key}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("models", *arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        result = self(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return json.loads(result.stdout)


@pytest.fixture
def aiia(site: Site, admin_key: str, manager: FakeManager) -> Aiia:
    return Aiia(site, admin_key)


def test_list_and_fit(aiia: Aiia) -> None:
    assert [model["id"] for model in aiia.json("list")["models"]] == ["qwen3-8b", "llama-1b"]
    assert aiia("list").stdout.splitlines()[2].split()[:2] == ["llama-1b", "cold"]
    assert aiia.json("fit")["models"][0]["id"] == "gemma-3-4b"
    assert "gemma-3-4b" in aiia("fit").stdout


def test_what_changes_a_model_says_so_on_stderr(aiia: Aiia, manager: FakeManager) -> None:
    for arguments, call in (
        (("load", "llama-1b"), ("POST /models/llama-1b/load", "")),
        (("unload", "llama-1b"), ("POST /models/llama-1b/unload", "")),
        (("scale", "llama-1b", "--min", "1", "--max", "3"), ("POST /models/llama-1b/scale", None)),
        (("add", "gemma-3-4b"), ("POST /catalogue/gemma-3-4b", "")),
        (("remove", "gemma-3-4b"), ("DELETE /models/gemma-3-4b", "")),
    ):
        result = aiia(*arguments)
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
        assert result.stderr.startswith(f"{arguments[1]}: ")
        assert manager.calls[-1][0] == call[0]
    assert (manager.models["llama-1b"]["min_replicas"], manager.models["llama-1b"]["max_replicas"]) == (1, 3)
    assert "gemma-3-4b" not in manager.models
    assert aiia.json("load", "llama-1b") == {"model": "llama-1b", "done": "loading"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("load", "nobody"), "There is no model nobody."),
        (("remove", "qwen3-8b"), "qwen3-8b is packaged with aiia."),
        (("scale", "qwen3-8b", "--min", "2", "--max", "1"), "min_replicas: must not be greater than max_replicas"),
        (("scale", "qwen3-8b"), "Say how many"),
    ],
)
def test_a_refusal_is_told_in_the_apis_words(aiia: Aiia, arguments: tuple[str, ...], words: str) -> None:
    result = aiia(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("meanwhile", "then"), [("downloading", "cold"), ("ready", "ready")])
def test_pull_waits_until_the_files_are_there(aiia: Aiia, manager: FakeManager, meanwhile: str, then: str) -> None:
    def progress() -> None:
        manager.wait_call("POST /models/llama-1b/pull")
        manager.set_model("llama-1b", meanwhile, progress=0.5)
        manager.wait_asked()
        manager.set_model("llama-1b", then, progress=None)

    downloading = threading.Thread(target=progress)
    downloading.start()
    result = aiia("pull", "llama-1b")
    downloading.join()
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert result.stderr == "llama-1b: 50 %\nllama-1b: files are here\n"


def test_a_failed_download_fails(aiia: Aiia, manager: FakeManager) -> None:
    manager.set_model("llama-1b", "failed", reason="The hub wants a token: set HF_TOKEN.")
    manager.keep_state = True
    result = aiia("pull", "llama-1b")
    assert result.returncode == 1
    assert "The hub wants a token" in result.stderr


def test_events_are_shown_and_followed(aiia: Aiia, manager: FakeManager) -> None:
    result = aiia("events")
    assert [line.split(None, 1)[1] for line in result.stdout.splitlines()] == ["qwen3-8b  ready", "llama-1b  cold"]
    following = subprocess.Popen(
        command("models", "events", "-f", "--json"), env=aiia.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert following.stdout is not None
        seen = [json.loads(following.stdout.readline())["model"] for _ in range(2)]
        manager.set_model("llama-1b", "starting")
        news = json.loads(following.stdout.readline())
    finally:
        following.kill()
        following.wait()
    assert seen == ["qwen3-8b", "llama-1b"]
    assert (news["model"], news["state"], news["previous"]) == ("llama-1b", "starting", "cold")


def test_who_is_not_an_administrator_may_look(aiia: Aiia) -> None:
    mail = "models-user@example.org"
    platform("create_user", "--email", mail, "--password-stdin", stdin="correct horse battery\n")
    aiia.environment["AIIA_API_KEY"] = platform("create_token", "--email", mail, "--name", "test")
    assert aiia("list").returncode == 0
    refused = aiia("load", "llama-1b")
    assert refused.returncode == 1
    assert "Only administrators may do this." in refused.stderr


def test_fit_needs_nothing_that_runs(aiia: Aiia, tmp_path: Any) -> None:
    del aiia.environment["AIIA_URL"]
    answer = aiia.json("fit", "--data-dir", str(tmp_path))
    assert answer["machine"]["cpu_count"] > 0
    assert {"qwen3-8b", "bge-m3"} <= {model["id"] for model in answer["models"]}


def test_what_is_not_there_is_said(aiia: Aiia, tmp_path: Any) -> None:
    del aiia.environment["AIIA_API_KEY"]
    assert "AIIA_API_KEY=sk-" in aiia("list").stderr
    aiia.environment |= {"AIIA_API_KEY": "sk-x", "AIIA_URL": "http://127.0.0.1:1"}
    assert "http://127.0.0.1:1 does not answer" in aiia("list").stderr
    del aiia.environment["AIIA_URL"]
    result = aiia("list", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    assert "aiia up" in result.stderr
