"""The whole of aiia with the real engine: whatever is killed in the middle of an answer, it completes by itself."""

import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tokenizers import Tokenizer

from aiia_serving.settings import model_cache
from tests.support.instance import Instance
from tests.support.visitor import Stored, Visitor

pytestmark = [pytest.mark.serving, pytest.mark.timeout(900)]

MODEL = "smollm2-135m"
#: Some 250 tokens are the answer, always the same: the packaged model does not sample.
PROMPT = "Write a letter to a friend about your holiday in Rome."
#: Seconds for an answer on a machine that is busy with other things.
WHOLE = 150


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with Instance(tmp_path_factory.mktemp("chaos") / "data") as instance:
        instance.wait_ready(models=(MODEL,), timeout=400)
        yield instance


@pytest.fixture
def visitor(instance: Instance) -> Iterator[Visitor]:
    instance.wait_ready(models=(MODEL,), timeout=200)
    visitor = Visitor(instance)
    yield visitor
    visitor.close()


@pytest.fixture(scope="module")
def tokenizer(instance: Instance) -> Tokenizer:
    (file,) = Path(model_cache()).rglob("tokenizer.json")
    return Tokenizer.from_file(str(file))


def in_the_middle(row: Stored) -> bool:
    return len(row.text) > 100


def ended(row: Stored) -> bool:
    return row.state not in {"queued", "running"}


def assert_whole(row: Stored, tokenizer: Tokenizer) -> None:
    """No text is repeated or missing: it is just what the stored tokens say."""
    assert row.state == "done", row.error
    ids = tokenizer.decode([*row.prompt_ids, *row.output_ids], skip_special_tokens=False)
    assert ids.removesuffix("<|im_end|>").endswith(row.text)
    assert tokenizer.decode(row.output_ids, skip_special_tokens=True).strip() == row.text.strip()


@pytest.mark.parametrize("role", ["worker", "web", "redis"])
def test_role_killed(instance: Instance, visitor: Visitor, tokenizer: Tokenizer, role: str) -> None:
    generation = visitor.send(PROMPT, MODEL)
    visitor.wait(generation, in_the_middle, WHOLE)
    assert visitor.stored(generation).state == "running"
    killed, killed_at = instance.kill(role), time.monotonic()
    row = visitor.wait(generation, ended, WHOLE)
    print(f"{role} killed: completed {time.monotonic() - killed_at:.1f} s later")
    assert_whole(row, tokenizer)
    assert row.attempt == (2 if role == "worker" else 1)
    instance.wait_restarted(role, killed)


def test_replica_killed(instance: Instance, visitor: Visitor, tokenizer: Tokenizer) -> None:
    """With one replica the answer goes on as soon as another is up, which takes as long as loading the model."""
    generation = visitor.send(PROMPT, MODEL)
    visitor.wait(generation, in_the_middle, WHOLE)
    replicas = [p for p in instance.processes() if p.is_running() and "ServeReplica" in " ".join(p.cmdline())]
    assert replicas
    killed_at = time.monotonic()
    for replica in replicas:
        replica.send_signal(signal.SIGKILL)
    row = visitor.wait(generation, ended, WHOLE)
    print(f"replica killed: completed {time.monotonic() - killed_at:.1f} s later")
    assert_whole(row, tokenizer)


def test_reload_at_20_points(visitor: Visitor) -> None:
    """Each reload, and each reconnect, shows the whole text up to then and after it the live rest."""
    generation = visitor.send(PROMPT, MODEL)
    points = sorted(random.Random(3).sample(range(1, 600), 20))
    reloads = ThreadPoolExecutor(len(points))
    shown: list[Any] = []
    for point in points:
        visitor.wait(generation, lambda row, point=point: len(row.text) >= point or ended(row), WHOLE)  # type: ignore[misc]
        shown.append(reloads.submit(read, visitor, generation, point % 2 == 0))
    whole = read(visitor, generation)
    assert whole
    assert {reader.result() for reader in shown} == {whole}
    reloads.shutdown()


def read(visitor: Visitor, generation: Stored, reconnect: bool = False) -> str:
    """What a page shows at the end. With `reconnect` the connection breaks after the first blocks."""
    blocks: dict[int, str] = {}
    after = ""
    while True:
        with visitor.follow(generation, after) as events:
            for event, place, data in events:
                after = place or after
                if event == "blocks":
                    blocks |= dict(data["changed"])
                    blocks = {i: html for i, html in blocks.items() if i < data["count"]}
                    if reconnect:
                        reconnect = False
                        break
                elif event == "done":
                    return "".join(html for _, html in sorted(blocks.items()))


def test_stop_frees_the_engine(instance: Instance, visitor: Visitor) -> None:
    # The answers of the tests before have titles made after them.
    visitor.wait_afterwords(WHOLE)
    generation = visitor.send(PROMPT, MODEL)
    visitor.wait(generation, in_the_middle, WHOLE)
    visitor.post(f"/generations/{generation.id}/stop/")
    row = visitor.wait(generation, ended, 30)
    assert row.state == "stopped"
    assert running_requests(instance) == 0


def running_requests(instance: Instance) -> float:
    """What vLLM itself says that it works on, as soon as it is nothing or after five seconds."""
    deadline = time.monotonic() + 5
    port = psutil.Process(instance.pid("models")).environ()["AIIA_SERVE_PORT"]
    while True:
        metrics = httpx.get(f"http://127.0.0.1:{port}/{MODEL}/metrics").text
        lines = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
        running = sum(float(line.rsplit(" ", 1)[1]) for line in lines)
        assert lines
        if running == 0 or time.monotonic() > deadline:
            return running
        time.sleep(0.05)


def test_nothing_is_left_of_a_killed_supervisor(instance: Instance) -> None:
    """Last in this file: the instance ends with it."""
    everything = [p for p in instance.processes() if p.is_running()]
    assert instance.process is not None
    instance.process.kill()
    gone, alive = psutil.wait_procs(everything, timeout=30)
    assert gone
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
