"""What the gateway costs: one fake model asked directly, through a bare TCP relay and through the gateway, in one run.

``python -m loadtests.overhead [--write]`` measures at 1, 16 and 64 streams and prints a table; ``--write`` puts it into
docs/benchmarks.md. Streams are independent of each other, so that each token wakes every process on its way; or in
step, as those of one model are, whose batch has all its next tokens at once. Back to back are answers of one token,
each asked for when the last has ended, so that no process has slept meanwhile.

Time to first token is the client's, from sending a request to the first byte of a token's frame. CPU is what the
operating system counted for a process, divided by the tokens that went through it.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from loadtests import report
from tests.fakes import ROOT, FakeUpstream
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess, free_port

_KEY = "sk-benchmark"
_TOKENS = 256
# A usual speed of a model for one reader; at 64 streams 1,600 tokens/s in all.
_TOKENS_PER_SECOND = 25.0
# Alone, so that a run of one stream has answers enough.
_TOKENS_PER_SECOND_ALONE = 400.0
_FIRST_TOKEN = b'"content":" w0"'


@dataclass
class Way:
    """One way to the model, and what was measured on it: times to first token in seconds."""

    base_url: str
    pid: int | None = None
    tokens: int = _TOKENS
    first_token_s: list[float] = field(default_factory=list)
    cpu_s: float = 0

    def percentile_ms(self, percentile: int) -> float:
        ordered = sorted(self.first_token_s)
        return ordered[min(len(ordered) - 1, len(ordered) * percentile // 100)] * 1000

    @property
    def cpu_us_per_token(self) -> float:
        return self.cpu_s / (len(self.first_token_s) * self.tokens) * 1e6

    def cpu_now(self) -> float:
        if self.pid is None:
            return 0
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True)
class Level:
    """All ways at one number of concurrent streams."""

    name: str
    direct: Way
    bare: Way
    gateway: Way

    @property
    def added_ms(self) -> float:
        """The median of what the gateway adds to an answer asked for directly just before or after it."""
        pairs = zip(self.direct.first_token_s, self.gateway.first_token_s, strict=True)
        return statistics.median(through - direct for direct, through in pairs) * 1000

    def row(self) -> str:
        cells = [
            self.name,
            str(len(self.direct.first_token_s)),
            *(f"{way.percentile_ms(50):.2f} / {way.percentile_ms(99):.2f}" for way in (self.direct, self.gateway)),
            f"{self.added_ms:.2f}",
            f"{self.gateway.cpu_us_per_token:.0f}",
            f"{self.bare.cpu_us_per_token:.0f}",
        ]
        return f"| {' | '.join(cells)} |"


_HEAD = (
    "| streams | answers each | direct TTFT p50 / p99 (ms) | through the gateway p50 / p99 (ms) "
    "| added, p50 of pairs (ms) | gateway CPU per token (µs) | bare relay CPU per token (µs) |\n"
    "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


async def first_token_s(session: aiohttp.ClientSession, base_url: str) -> float:
    """Seconds to the first token of one answer, which is then read to its end."""
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {"Authorization": f"Bearer {_KEY}"}
    started = time.perf_counter()
    first: float | None = None
    async with session.post(f"{base_url}/chat/completions", json=body, headers=headers) as response:
        response.raise_for_status()
        seen = b""
        async for chunk in response.content.iter_any():
            if first is None:
                seen += chunk
                if _FIRST_TOKEN in seen:
                    first = time.perf_counter() - started
    if first is None:
        raise RuntimeError("an answer without a token")
    return first


async def measure(
    name: str, streams: int, rounds: int, urls: Sequence[tuple[str, int | None]], *, tokens: int = _TOKENS
) -> Level:
    """``rounds`` of answers over every way in ``streams`` workers, of which a part is on each way at any time."""
    ways = [Way(url, pid, tokens) for url, pid in urls]
    async with _session() as session:

        async def worker(number: int) -> list[list[float]]:
            # Spread over the time of one token, as independent readers are.
            await asyncio.sleep(number / streams / _TOKENS_PER_SECOND)
            times: list[list[float]] = [[] for _ in ways]
            for turn in range(rounds):
                for step in range(len(ways)):
                    chosen = (turn + number + step) % len(ways)
                    times[chosen].append(await first_token_s(session, ways[chosen].base_url))
            return times

        for way in ways:
            await first_token_s(session, way.base_url)
        before = [way.cpu_now() for way in ways]
        for times in await asyncio.gather(*(worker(number) for number in range(streams))):
            for way, measured in zip(ways, times, strict=True):
                way.first_token_s += measured
        for way, cpu in zip(ways, before, strict=True):
            way.cpu_s = way.cpu_now() - cpu
    return Level(name, *ways)


async def measure_in_step(name: str, streams: int, rounds: int, urls: Sequence[tuple[str, int | None]]) -> Level:
    """``rounds`` of answers over every way in turns, all ``streams`` of them begun at once."""
    ways = [Way(url, pid) for url, pid in urls]
    async with _session() as session:
        for way in ways * rounds:
            await first_token_s(session, way.base_url)
            cpu = way.cpu_now()
            way.first_token_s += await asyncio.gather(*(first_token_s(session, way.base_url) for _ in range(streams)))
            way.cpu_s += way.cpu_now() - cpu
    return Level(name, *ways)


def _session() -> aiohttp.ClientSession:
    # Servers close connections that idle for 5 s.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2))


@contextmanager
def bare_relay(target: int) -> Iterator[tuple[str, int]]:
    """A ``loadtests.bare_relay`` process in front of a port: its base URL and process id."""
    port = free_port()
    command = [sys.executable, "-m", "loadtests.bare_relay", str(port), str(target)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        process.terminate()
        process.wait(10)


async def measure_all(rounds: int) -> list[Level]:
    with (
        FakeUpstream(tokens=_TOKENS) as upstream,
        bare_relay(upstream.port) as bare,
        FakeControl() as control,
        tempfile.TemporaryDirectory() as folder,
        # A log that somebody reads would be measured with it.
        GatewayProcess(control.url, log=Path(folder) / "log") as gateway,
    ):
        control.set_model("fake", upstream.base_url, max_in_flight=1000)
        control.add_key(_KEY, "benchmark")
        control.wait_seen()
        urls = [(upstream.base_url, None), bare, (gateway.base_url, gateway.pid)]
        upstream.control(tokens_per_second=_TOKENS_PER_SECOND_ALONE)
        levels = [await measure("1", 1, rounds * 12, urls)]
        upstream.control(tokens=1)
        levels.append(await measure("1, back to back", 1, rounds * 200, urls, tokens=1))
        upstream.control(tokens=_TOKENS, tokens_per_second=_TOKENS_PER_SECOND)
        levels += [await measure(str(streams), streams, rounds, urls) for streams in (16, 64)]
        levels.append(await measure_in_step("64, in step", 64, rounds, urls))
        return levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="answers per stream and way; 12 times as many alone")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    others = psutil.cpu_percent(interval=3)
    levels = asyncio.run(measure_all(options.rounds))
    text = (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, no GPU, {others:.0f} % of them busy with other things "
        f"just before the run. Client, fake model, relay and gateway share the cores; {_TOKENS} tokens per answer, "
        f"{_TOKENS_PER_SECOND:.0f} tokens/s per stream ({_TOKENS_PER_SECOND_ALONE:.0f} alone).\n\n"
        + "\n".join([_HEAD, *(level.row() for level in levels)])
    )
    print(text)
    if options.write:
        report.write("overhead", text)


if __name__ == "__main__":
    main()
