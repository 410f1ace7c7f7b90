"""A quiet user beside one who floods: time to first token alone and beside, first come first served and fair.

``python -m loadtests.fairness [--real] [--write]``. The quiet user asks one thing at a time and pauses in between, for
so long (``--pause``) that it needs far less than half of the model; the other keeps 32 times as many requests open, of
the same kind, without a pause. ``--real`` asks the packaged model on real vLLM through the real manager, otherwise a
fake one of constant speed; ``--write`` puts the table into docs/benchmarks.md.

Beside the times it shows what the model did meanwhile: the flood's tokens per second, and in how many of the looks at
the queue a slot was free while something waited.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp

from loadtests import report
from loadtests.real import real_model
from tests.fakes import FakeUpstream
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess, free_port
from tests.support.services import RedisServer

_QUIET, _FLOOD = "sk-quiet", "sk-flood"
_TIMES = 32
_WORDS = ("river", "stone", "garden", "winter", "letter", "music", "window", "bread", "silver", "morning", "candle")


@dataclass(frozen=True)
class Model:
    """What is asked, and how: words of the quiet user's prompts and of the flood's, tokens of all answers; how often
    the quiet user asks, with about how many seconds in between."""

    id: str
    prompt_words: int
    flood_words: int
    tokens: int
    answers: int
    pause_s: float


@dataclass
class Result:
    """``idle`` counts the ``looks`` at the queue that saw a free slot while something waited. Times in seconds."""

    first_token_s: list[float] = field(default_factory=list)
    flood_tokens: int = 0
    seconds: float = 0
    looks: int = 0
    idle: int = 0

    def add(self, other: "Result") -> None:
        self.first_token_s += other.first_token_s
        self.flood_tokens += other.flood_tokens
        self.seconds += other.seconds
        self.looks += other.looks
        self.idle += other.idle

    def percentile_ms(self, percent: int) -> float:
        return report.percentile(self.first_token_s, percent) * 1000

    def row(self, name: str, alone: "Result") -> list[str]:
        return [
            name,
            str(len(self.first_token_s)),
            *(f"{self.percentile_ms(percent):.0f}" for percent in (50, 99)),
            f"{self.percentile_ms(50) / alone.percentile_ms(50):.2f}",
            f"{self.percentile_ms(99) / alone.percentile_ms(99):.2f}",
            f"{self.flood_tokens / self.seconds:.0f}" if self.flood_tokens else "-",
            f"{self.idle} of {self.looks}" if self.flood_tokens else "-",
        ]


class Bench:
    """One gateway and its users."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, model: Model) -> None:
        self._session = session
        self._url = base_url
        self._model = model

    async def ask(self, key: str, words: int) -> tuple[float, int]:
        """Seconds to the first token, and the number of frames with text."""
        # No two prompts begin alike, so that no answer comes from a cache.
        prompt = " ".join(random.choices(_WORDS, k=words))
        body = {
            "model": self._model.id,
            "messages": [{"role": "user", "content": f"Continue this list of words: {prompt}"}],
            "stream": True,
            "max_tokens": self._model.tokens,
            # A model free to end may end before its first word.
            "min_tokens": self._model.tokens,
        }
        started, first, frames = time.perf_counter(), 0.0, 0
        headers = {"Authorization": f"Bearer {key}"}
        async with self._session.post(f"{self._url}/chat/completions", json=body, headers=headers) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    first = first or time.perf_counter() - started
                    frames += 1
        if not first:
            raise RuntimeError("an answer without a token")
        return first, frames

    async def queue(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}"}
        async with self._session.get(f"{self._url}/queue", headers=headers) as response:
            load: dict[str, Any] = (await response.json())["models"][self._model.id]
            return load

    async def measure(self, flood: int, answers: int) -> Result:
        """``answers`` for the quiet user beside ``flood`` requests of the other at any time."""
        result = Result()

        async def pour() -> None:
            while True:
                _, tokens = await self.ask(_FLOOD, self._model.flood_words)
                result.flood_tokens += tokens

        async def look() -> None:
            while True:
                load = await self.queue()
                result.looks += 1
                result.idle += load["waiting"] > 0 and load["running"] < load["slots"]
                await asyncio.sleep(0.1)

        others = [asyncio.create_task(pour()) for _ in range(flood)]
        try:
            async with asyncio.timeout(120):
                while flood and not (await self.queue())["waiting"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await asyncio.sleep(2)
            result.flood_tokens, started = 0, time.perf_counter()
            others.append(asyncio.create_task(look()))
            for _ in range(answers):
                result.first_token_s.append((await self.ask(_QUIET, self._model.prompt_words))[0])
                await asyncio.sleep(self._model.pause_s * random.uniform(0.3, 1.7))
            result.seconds = time.perf_counter() - started
            for task in others:
                if task.done():
                    task.result()
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        return result


async def measure_all(urls: dict[str, str], model: Model, rounds: int) -> dict[str, Result]:
    """The quiet user alone, beside the flood first come first served, and beside it fairly, in turns.

    First come, first served gets a quarter of the answers, since each takes so long.
    """
    results = {"alone": Result(), "fifo": Result(), "fair": Result()}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:
        benches = {name: Bench(session, url, model) for name, url in urls.items()}
        for bench in benches.values():
            await bench.ask(_QUIET, model.prompt_words)
        for _ in range(rounds):
            for name, result in results.items():
                bench = benches["fair" if name == "alone" else name]
                answers = model.answers // 4 if name == "fifo" else model.answers
                result.add(await bench.measure(0 if name == "alone" else _TIMES, answers))
                print(name, *(f"{seconds:.2f}" for seconds in result.first_token_s), flush=True)
    return results


@contextmanager
def gateways(manager_url: str | None, control: FakeControl) -> Iterator[dict[str, str]]:
    """One with each kind of queue, by the name of the kind."""
    with ExitStack() as stack:
        redis = RedisServer(free_port())
        redis.start()
        stack.callback(redis.kill)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kinds: tuple[Literal["fifo", "fair"], ...] = ("fifo", "fair")
        yield {
            kind: stack.enter_context(
                GatewayProcess(
                    control.url, manager_url, folder / f"{kind}.log", REDIS_URL=redis.url, AIIA_GATEWAY_QUEUE=kind
                )
            ).base_url
            for kind in kinds
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="store_true", help="the packaged model on real vLLM, some minutes")
    parser.add_argument("--slots", type=int, default=8, help="requests in flight")
    parser.add_argument("--prompt-words", type=int, default=600, help="of the quiet user")
    parser.add_argument("--flood-words", type=int, help="of the flood's prompts; as many unless given")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--answers", type=int, default=50, help="for the quiet user, in each round and way")
    parser.add_argument("--pause", type=float, default=0.35, help="of the quiet user, about so many seconds")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    machine = report.machine()
    with ExitStack() as stack:
        control = stack.enter_context(FakeControl())
        control.add_key(_QUIET, "quiet")
        control.add_key(_FLOOD, "flood")
        manager_url: str | None = None
        if options.real:
            name = "the packaged SmolLM2 on real vLLM"
            model_id, manager_url = stack.enter_context(real_model(options.slots))
        else:
            name, model_id = "a fake model of 30 tokens/s per stream and 200 ms to the first", "fake"
            upstream = stack.enter_context(FakeUpstream(tokens=options.tokens, tokens_per_second=30, first_token_s=0.2))
            control.set_model(model_id, upstream.base_url, max_in_flight=options.slots)
        urls = stack.enter_context(gateways(manager_url, control))
        flood_words = options.flood_words or options.prompt_words
        model = Model(model_id, options.prompt_words, flood_words, options.tokens, options.answers, options.pause)
        results = asyncio.run(measure_all(urls, model, options.rounds))
    alone = results["alone"]
    head = ["the quiet user", "answers", "TTFT p50 (ms)", "p99 (ms)", "p50 / alone", "p99 / alone"]
    head += ["flood (tokens/s)", "looks that saw a slot idle while work waited"]
    names = {"alone": "alone", "fifo": "beside the flood, FIFO", "fair": "beside the flood, fair queue"}
    text = (
        f"{machine} just before; {name}, {options.slots} slots, prompts of {options.prompt_words} words (the flood's "
        f"{flood_words}), answers of {options.tokens} tokens, "
        f"{options.pause} s between the quiet user's, {_TIMES} requests of the flood open at any time.\n\n"
        + report.table(head, [result.row(names[kind], alone) for kind, result in results.items()])
    )
    print(text)
    if options.write:
        report.write("fairness", text)


if __name__ == "__main__":
    main()
