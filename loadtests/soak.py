"""A whole aiia and a second gateway under mixed load for an hour: does anything grow, get slower or stay behind?

``python -m loadtests.soak [--minutes 60] [--rate 5] [--real] [--write]``. Users with keys, other roles, pages and bad
requests over both gateways, to a fake model that stands outside as a remote endpoint; with ``--real`` also to the
packaged chat and embedding models on Ray. Callers leave in the middle. What it measures goes to files under ``--out``
while it runs. Ends with 1 when something is not as it should be.
"""

import argparse
import asyncio
import csv
import itertools
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import psycopg

from aiia_cli.admin import run_platform_command
from loadtests import footprint, report
from loadtests.footprint import Footprint
from loadtests.mixed import Mix, Request, Result, ask
from tests.fakes import ROOT, FakeUpstream
from tests.fakes.gateway import free_port
from tests.support.instance import Instance
from tests.support.visitor import PASSWORD, Visitor

_MODEL, _TOKENS, _PACE = "fake", 40, 50
_CHAT, _EMBEDDING, _RERANK = "smollm2-135m", "minilm-l6-v2", "minilm-l6-v2-rerank"
_SAMPLE_EVERY_S = 10
_PART_S = 600
_USERS = 5
# An allocator's own coming and going in a process of gigabytes.
_TOLERATED_MB = 1.0


@dataclass
class Soak:
    """What runs, and what came of it so far. Times in seconds since ``began``."""

    instance: Instance
    upstream: FakeUpstream
    gateways: dict[str, str]
    second_pid: int
    token: str
    keys: list[str]
    out: Path
    seconds: float
    dice: random.Random
    began: float = field(default_factory=time.monotonic)
    results: list[Result] = field(default_factory=list)
    pages: Counter[str] = field(default_factory=Counter)
    real: bool = False

    def __post_init__(self) -> None:
        self.memory = Footprint(self.out / "footprint.csv")
        self._requests = (self.out / "requests.csv").open("w", newline="")
        self._writer = csv.writer(self._requests)
        self._writer.writerow([column.name for column in fields(Result)])

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began

    def over(self) -> bool:
        return self.now_s >= self.seconds

    def headers(self) -> dict[str, str]:
        """Those of a user with a key, or of another role that asks for somebody."""
        if self.dice.random() < 0.6:
            return {"Authorization": f"Bearer {self.dice.choice(self.keys)}"}
        return {
            "Authorization": f"Bearer {self.token}",
            "X-Aiia-Class": self.dice.choice(["interactive", "interactive", "batch"]),
            "X-Aiia-User": str(self.dice.randint(1, _USERS)),
        }

    def take(self, result: Result) -> None:
        # What was said would fill this process.
        result.content = None
        self.results.append(result)
        self._writer.writerow(astuple(result))

    def roles(self) -> dict[str, int]:
        known = self.instance.record["roles"]
        pids = {name: role["pid"] for name, role in known.items() if role["pid"] is not None}
        return {**pids, "second gateway": self.second_pid}


async def load(soak: Soak, rate: float) -> None:
    """Independent requests, ``rate`` per second."""
    mix = Mix(soak.dice, _MODEL, _TOKENS)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2)) as session:

        async def one(request: Request) -> None:
            gateway = soak.dice.choice(list(soak.gateways))
            soak.take(await ask(session, soak.gateways[gateway], request, soak.headers(), gateway))

        async with asyncio.TaskGroup() as group:
            while not soak.over():
                group.create_task(one(mix.draw()))
                await asyncio.sleep(soak.dice.expovariate(rate))


async def real_load(soak: Soak) -> None:
    """One request to a packaged model every few seconds."""
    say: Any = [{"role": "user", "content": "Tell me about the sea."}]
    chat = {"model": _CHAT, "messages": say, "max_tokens": 24, "stream": True}
    documents = ["Paris is in France.", "Rome is in Italy.", "The sea is deep."]
    turns = [
        Request("real chat", "chat/completions", chat),
        Request("real embedding", "embeddings", {"model": _EMBEDDING, "input": documents}),
        Request("real chat", "chat/completions", chat),
        Request("real chat that leaves", "chat/completions", {**chat, "max_tokens": 200}, leaves_after=10),
        Request("real rerank", "rerank", {"model": _RERANK, "query": "Where is Rome?", "documents": documents}),
    ]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=2)) as session:
        for request in itertools.cycle(turns):
            if soak.over():
                return
            gateway = soak.dice.choice(list(soak.gateways))
            soak.take(await ask(session, soak.gateways[gateway], request, soak.headers(), gateway))
            await asyncio.sleep(3)


async def pages(soak: Soak) -> None:
    """Somebody who chats in the pages, which is what web and worker do most."""
    visitor = await asyncio.to_thread(Visitor, soak.instance)
    for model in itertools.cycle([_MODEL, _MODEL, _MODEL, _CHAT if soak.real else _MODEL]):
        if soak.over():
            break
        soak.pages[await asyncio.to_thread(_chat, visitor, model)] += 1
        await asyncio.sleep(8)
    visitor.close()


def _chat(visitor: Visitor, model: str) -> str:
    """One message and its answer; the state in which the answer is stored, or what went wrong."""
    try:
        generation = visitor.send("Say something short about the weather.", model)
        with visitor.follow(generation) as events:
            for event, _, _ in events:
                if event == "done":
                    break
        return visitor.stored(generation).state
    except (httpx.HTTPError, psycopg.Error) as error:
        return type(error).__name__


async def watch(soak: Soak) -> None:
    while not soak.over():
        soak.memory.take(await asyncio.to_thread(footprint.samples, soak.now_s, soak.roles()))
        (soak.out / "summary.md").write_text(summary(soak, []))
        await asyncio.sleep(_SAMPLE_EVERY_S)


async def run(soak: Soak, rate: float) -> list[str]:
    """The whole time of it. Returns what was not as it should be."""
    loads: list[Coroutine[Any, Any, None]] = [load(soak, rate), pages(soak), watch(soak)]
    if soak.real:
        loads.append(real_load(soak))
    await asyncio.gather(*loads)
    return [*await _left_behind(soak), *_wrong(soak)]


async def _left_behind(soak: Soak) -> list[str]:
    """What is still held although every caller is gone."""
    wrong = []
    running = soak.upstream.wait_running(0, 10)["running"]
    if running:
        wrong.append(f"the fake model still works on {running} requests")
    headers = {"Authorization": f"Bearer {soak.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for name, url in soak.gateways.items():
            async with session.get(f"{url}/queue") as response:
                loads = (await response.json())["models"]
            if held := {model: load for model, load in loads.items() if load["waiting"] or load["running"]}:
                wrong.append(f"{name} still holds places: {held}")
    # The pages ask for more than this counts.
    answered = sum(bool(result.request_id) and result.kind != "refused" for result in soak.results)
    for _ in range(30):
        if (counted := _counted(soak)) >= answered:
            return wrong
        await asyncio.sleep(1)
    return [*wrong, f"{counted} usage records of {answered} requests"]


def _counted(soak: Soak) -> int:
    with psycopg.connect(soak.instance.database_url) as connection:
        row = connection.execute("SELECT count(*) FROM usage_usagerecord").fetchone()
    assert row is not None
    return int(row[0])


def _wrong(soak: Soak) -> list[str]:
    wrong = []
    for result in soak.results:
        wanted = "left" if "leaves" in result.kind else "complete"
        # Who wants to leave may find the answer whole already.
        if result.ended not in (wanted, "complete"):
            wrong.append(f"{result.kind} at {result.gateway}: {result.ended} {result.detail}")
    wrong += [f"in the pages: {state}" for state in soak.pages if state != "done"]
    restarted = {name: role["restarts"] for name, role in soak.instance.record["roles"].items() if role["restarts"]}
    if restarted:
        wrong.append(f"started again after a crash: {restarted}")
    return wrong


def summary(soak: Soak, wrong: list[str]) -> str:
    """The tables, as far as the run is."""
    minutes = soak.now_s / 60
    # Caches and pools fill in the beginning.
    warm_s = min(_PART_S, soak.now_s / 3)
    lines = [
        f"{minutes:.0f} minutes, {len(soak.results)} requests and {sum(soak.pages.values())} chats in the pages. "
        f"Slopes after the first {warm_s / 60:.0f} minutes, with 95 % confidence.\n",
        report.table(footprint.HEAD, soak.memory.rows(warm_s, _TOLERATED_MB)),
        "",
        report.table(
            [
                "minutes",
                "requests",
                "TTFT p50 / p99 (ms)",
                "whole plain answer p50 / p99 (ms)",
                "real TTFT p50 / p99 (ms)",
            ],
            [_part(soak, start) for start in range(0, max(1, round(soak.now_s - _PART_S / 2)), _PART_S)],
        ),
        "",
        "Ended: "
        + ", ".join(f"{n} {what}" for what, n in sorted(Counter(_ending(r) for r in soak.results).items()))
        + "; in the pages: "
        + ", ".join(f"{n} {what}" for what, n in sorted(soak.pages.items()))
        + ".",
    ]
    if wrong:
        lines += ["", "Not as it should be:", "", *(f"- {what}: {n}" for what, n in Counter(wrong).most_common(20))]
    return "\n".join(lines)


def _ending(result: Result) -> str:
    if result.kind == "refused" and result.ended == "complete":
        return "rightly refused"
    return result.ended if result.ended != "error" else f"error {result.detail}"


def _part(soak: Soak, start: float) -> list[str]:
    part = [r for r in soak.results if start <= r.began - soak.began < start + _PART_S and r.ended == "complete"]
    first = [r.first_token_s * 1000 for r in part if r.kind == "stream" and r.first_token_s]
    whole = [r.seconds * 1000 for r in part if r.kind == "plain"]
    real = [r.first_token_s * 1000 for r in part if r.kind == "real chat" and r.first_token_s]
    cells = [f"{report.percentile(v, 50):.0f} / {report.percentile(v, 99):.0f}" for v in (first, whole, real)]
    return [f"{start / 60:.0f}", str(len(part)), *cells]


@contextmanager
def second_gateway(instance: Instance) -> Iterator[tuple[str, int]]:
    """Another gateway on the same Redis, configured as the first: its base URL and process id."""
    port = free_port()
    environment = {**psutil.Process(instance.pid("web")).environ(), "AIIA_PORT": str(port)}
    command = [sys.executable, "-P", "-m", "aiia_serving", "gateway"]
    with (instance.data.logs / "second-gateway.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        process.terminate()
        process.wait(20)


def make_keys(instance: Instance) -> list[str]:
    return [make_key(instance, f"user{number}@example.org") for number in range(_USERS)]


def make_key(instance: Instance, email: str) -> str:
    """The API key of a new user."""
    run_platform_command(instance.data, ["create_user", "--email", email, "--password-stdin"], PASSWORD)
    return run_platform_command(instance.data, ["create_token", "--email", email, "--name", "load"]).strip()


async def soak_all(instance: Instance, upstream: FakeUpstream, options: argparse.Namespace) -> tuple[Soak, list[str]]:
    models = (_MODEL, *((_CHAT,) if options.real else ()))
    with second_gateway(instance) as (url, pid):
        token = (instance.data.secrets / "internal-token").read_text().strip()
        gateways = {"web": f"{instance.address}/v1", "second gateway": url}
        await until_ready(gateways, token, models)
        soak = Soak(
            instance=instance,
            upstream=upstream,
            gateways=gateways,
            second_pid=pid,
            token=token,
            keys=make_keys(instance),
            out=options.out,
            seconds=options.minutes * 60,
            dice=random.Random(options.seed),
            real=options.real,
        )
        wrong = await run(soak, options.rate)
        return soak, wrong


async def until_ready(gateways: dict[str, str], token: str, models: tuple[str, ...]) -> None:
    """Returns when both gateways know the models as ready."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session, asyncio.timeout(400):
        for url in gateways.values():
            while True:
                with suppress(aiohttp.ClientError):
                    async with session.get(f"{url}/models") as response:
                        known = {m["id"]: m["aiia"]["state"] for m in (await response.json()).get("data", [])}
                    if all(known.get(model) == "ready" for model in models):
                        break
                await asyncio.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=5, help="requests per second to the fake model")
    parser.add_argument("--real", action="store_true", help="also the packaged models, on Ray")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("soak-results"))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    machine = report.machine()
    with FakeUpstream(models=[_MODEL], tokens=_TOKENS, tokens_per_second=_PACE) as upstream:
        instance = Instance(options.out / "data", no_models=not options.real, openai_base_url=upstream.base_url)
        with instance:
            instance.wait_ready(timeout=120)
            soak, wrong = asyncio.run(soak_all(instance, upstream, options))
    text = f"{machine} just before the run. {summary(soak, wrong)}"
    (options.out / "summary.md").write_text(text)
    print(text)
    if options.write:
        report.write("soak", text)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
