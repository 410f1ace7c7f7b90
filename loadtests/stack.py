"""What the whole stack costs: gateway, HAProxy, Ray Serve and vLLM beside a bare ``vllm serve`` of the same model.

``python -m loadtests.stack [--rounds 3] [--write]``. Both have the same engine options on the same machine and are
asked in turns, in pairs, never at the same time. Tokens per second are those of all streams together, from the first
request to the last token; time to first token (TTFT) is the client's.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.loader import load_catalogue
from aiia_serving.engines import store, vllm
from aiia_serving.settings import model_cache
from loadtests import report
from tests.fakes import ROOT
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess, free_port
from tests.serving.test_vllm import Stack

_PACKAGED = ROOT / "models" / "smollm2-135m.yaml"
_STREAMS = (1, 8, 32)
_TOKENS = 64
_START_S = 1200


@dataclass
class Side:
    """One of the two, and its rounds at one number of streams: tokens per second, and times to first token in s."""

    base_url: str
    model: str
    speeds: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)


async def _answer(session: aiohttp.ClientSession, side: Side, number: int, tokens: int) -> float:
    """Seconds to the first frame of one answer of ``tokens`` tokens, which is read to its end."""
    # No two alike, so that no prefix is there already.
    text = f"{time.time_ns()} {number} Write a long story about a fisherman, his daughter and the sea."
    body = {
        "model": side.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    began, first = time.perf_counter(), 0.0
    async with session.post(f"{side.base_url}/chat/completions", json=body) as response:
        response.raise_for_status()
        line = b""
        async for line in response.content:
            if line.startswith(b"data: ") and not first:
                first = time.perf_counter() - began
            if line.startswith(b'data: {"error"'):
                raise RuntimeError(line.decode())
            if line == b"data: [DONE]\n":
                return first
    raise RuntimeError("an answer without an end")


async def _round(session: aiohttp.ClientSession, side: Side, streams: int, tokens: int) -> None:
    began = time.perf_counter()
    side.first_s += await asyncio.gather(*(_answer(session, side, number, tokens) for number in range(streams)))
    side.speeds.append(streams * tokens / (time.perf_counter() - began))


async def measure(
    ours: tuple[str, str], bare: tuple[str, str], rounds: int, streams: Sequence[int] = _STREAMS, tokens: int = _TOKENS
) -> list[tuple[int, Side, Side]]:
    """Per number of streams both sides, each ``(base URL, model)``, after ``rounds`` rounds in turns."""
    levels = []
    headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}"}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    async with aiohttp.ClientSession(
        headers=headers, connector=connector, timeout=aiohttp.ClientTimeout(900)
    ) as session:
        for number in streams:
            sides = Side(*ours), Side(*bare)
            for side in (Side(*ours), Side(*bare)):
                await _round(session, side, number, 8)
            for turn in range(rounds):
                for side in sides if turn % 2 else reversed(sides):
                    await _round(session, side, number, tokens)
            levels.append((number, *sides))
    return levels


def table(levels: list[tuple[int, Side, Side]]) -> str:
    rows = []
    for streams, ours, bare in levels:
        pairs = [a / b for a, b in zip(ours.speeds, bare.speeds, strict=True)]
        speeds = [f"{statistics.median(side.speeds):.0f}" for side in (bare, ours)]
        first = [f"{statistics.median(side.first_s) * 1000:.0f}" for side in (bare, ours)]
        rows.append([str(streams), *speeds, f"{statistics.median(pairs):.3f}", *first])
    return report.table(
        [
            "streams",
            "bare tokens/s",
            "stack tokens/s",
            "ratio, p50 of pairs",
            "bare TTFT p50 (ms)",
            "stack TTFT p50 (ms)",
        ],
        rows,
    )


@contextmanager
def whole_stack(*documents: str) -> Iterator[tuple[Stack, str]]:
    """Manager, Ray and a gateway with these model documents (YAML), all ready, and the gateway's base URL."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        stack.environment["AIIA_MODELS_DIR"] = str(stack.documents)
        for number, text in enumerate(documents):
            (stack.documents / f"{number}.yaml").write_text(text)
        stack.start("models")
        stack.start("manager")
        try:
            stack.wait_state(lambda models: _all_ready(models, len(documents)), _START_S)
            log = Path(folder) / "gateway.log"
            with FakeControl() as control, GatewayProcess(control.url, stack.manager_url, log) as gateway:
                yield stack, gateway.base_url
        finally:
            for role in list(stack.roles):
                stack.stop(role)


def _all_ready(models: dict[str, Any], wanted: int) -> bool:
    if failed := [model["reason"] for model in models.values() if model["state"] == "failed"]:
        raise RuntimeError(f"a model has failed: {failed}")
    return len(models) == wanted and all(model["state"] == "ready" for model in models.values())


@contextmanager
def bare_vllm(document: ModelDocument) -> Iterator[str]:
    """``vllm serve`` of the document's model with the options it has in the stack: its base URL."""
    port = free_port()
    options = [*_options(vllm.engine_arguments(document, model_cache())), "--served-model-name", document.id]
    command = [sys.executable, "-m", "loadtests.bare", "serve", str(store.folder(document, model_cache()))]
    environment = {**os.environ, **vllm.replica_environment(document)}
    environment.pop("AIIA_PRELOAD")
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), *options], env=environment, stdout=sys.stderr
    )
    try:
        _wait_healthy(port, process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _options(arguments: dict[str, Any]) -> list[str]:
    options = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if value is False and name.startswith("disable_"):
            # These have no opposite.
            continue
        if isinstance(value, bool):
            options.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            options += [f"--{flag}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return options


def _wait_healthy(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def parse(text: str) -> ModelDocument:
    """The document that a manager would read from this YAML."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.yaml").write_text(text)
        (document,) = load_catalogue([Path(folder)]).documents.values()
    return document


def compare(text: str, rounds: int, streams: Sequence[int] = _STREAMS, tokens: int = _TOKENS) -> str:
    """The table of one model, given as a YAML document."""
    document = parse(text)
    with whole_stack(text) as (_, url), bare_vllm(document) as bare:
        return table(asyncio.run(measure((url, document.id), (bare, document.id), rounds, streams, tokens)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each side and number of streams")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    machine = report.machine()
    result = compare(_PACKAGED.read_text(), options.rounds)
    text = f"{machine} just before the run. The packaged SmolLM2-135M in fp32, {_TOKENS} tokens per answer.\n\n{result}"
    print(text)
    if options.write:
        report.write("stack", text)


if __name__ == "__main__":
    main()
