"""What the gateway costs: the same fake model asked directly and through the gateway, in pairs, in one run.

``python -m loadtests.overhead [--write]`` measures at 1, 16 and 64 streams and prints a table; ``--write`` puts it into
docs/benchmarks.md. Time to first token is a client's, from sending the request to the first byte of a token's frame.
CPU is what the operating system counted for the gateway's process, divided by the tokens it relayed.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from tests.fakes import ROOT, FakeUpstream
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess

_KEY = "sk-benchmark"
_TOKENS = 128
# A usual speed of a model for one reader; at 64 streams 1,600 tokens/s in all.
_TOKENS_PER_SECOND = 25.0
_FIRST_TOKEN = b'"content":" w0"'
_START, _END = "<!-- overhead: written by loadtests/overhead.py -->", "<!-- /overhead -->"


@dataclass(frozen=True)
class Row:
    """Times in ms, CPU in µs per token."""

    streams: int
    pairs: int
    direct_p50: float
    direct_p99: float
    gateway_p50: float
    gateway_p99: float
    added_p50: float
    cpu_us: float


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


async def measure(streams: int, rounds: int, upstream: FakeUpstream, gateway: GatewayProcess) -> Row:
    """``rounds`` pairs in each of ``streams`` concurrent workers; every other pair begins with the gateway."""
    process = psutil.Process(gateway.pid)
    direct: list[float] = []
    relayed: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2)) as session:

        async def worker(number: int) -> None:
            # Spread over the time of one token, as independent readers are.
            await asyncio.sleep(number / streams / _TOKENS_PER_SECOND)
            for turn in range(rounds):
                ways = [(direct, upstream.base_url), (relayed, gateway.base_url)]
                for times, base_url in ways if (turn + number) % 2 else reversed(ways):
                    times.append(await first_token_s(session, base_url))

        await asyncio.gather(first_token_s(session, upstream.base_url), first_token_s(session, gateway.base_url))
        before = process.cpu_times()
        await asyncio.gather(*(worker(number) for number in range(streams)))
        after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    added = [r - d for d, r in zip(sorted(direct), sorted(relayed), strict=True)]
    return Row(
        streams=streams,
        pairs=len(direct),
        direct_p50=_ms(direct, 50),
        direct_p99=_ms(direct, 99),
        gateway_p50=_ms(relayed, 50),
        gateway_p99=_ms(relayed, 99),
        added_p50=statistics.median(added) * 1000,
        cpu_us=cpu_s / (len(relayed) * _TOKENS) * 1e6,
    )


async def measure_all(rounds: int) -> list[Row]:
    with (
        FakeUpstream(tokens=_TOKENS, tokens_per_second=_TOKENS_PER_SECOND) as upstream,
        FakeControl() as control,
        tempfile.TemporaryDirectory() as folder,
        # A log that somebody reads would be measured with it.
        GatewayProcess(control.url, log=Path(folder) / "log") as gateway,
    ):
        control.set_model("fake", upstream.base_url, max_in_flight=1000)
        control.add_key(_KEY, "benchmark")
        control.wait_seen()
        rows = []
        # Alone, many short answers: the figure is the latency, and one stream relays few tokens in a minute.
        upstream.control(tokens_per_second=400)
        rows.append(await measure(1, rounds * 8, upstream, gateway))
        upstream.control(tokens_per_second=_TOKENS_PER_SECOND)
        for streams in (16, 64):
            rows.append(await measure(streams, rounds, upstream, gateway))
        return rows


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| streams | pairs | direct TTFT p50 / p99 (ms) | through the gateway p50 / p99 (ms) | added p50 (ms) "
        "| gateway CPU per token (µs) |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row.streams} | {row.pairs} | {row.direct_p50:.2f} / {row.direct_p99:.2f} "
            f"| {row.gateway_p50:.2f} / {row.gateway_p99:.2f} | {row.added_p50:.2f} | {row.cpu_us:.0f} |"
        )
    return "\n".join(lines)


def write(text: str) -> None:
    """Replaces the table between the marks in docs/benchmarks.md."""
    path = ROOT / "docs" / "benchmarks.md"
    before, _, rest = path.read_text().partition(_START)
    _, _, after = rest.partition(_END)
    path.write_text(f"{before}{_START}\n{text}\n{_END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="pairs per stream")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    rows = asyncio.run(measure_all(options.rounds))
    machine = f"{os.cpu_count()} cores, no GPU" if not os.path.exists("/dev/nvidia0") else f"{os.cpu_count()} cores"
    text = (
        f"{time.strftime('%Y-%m-%d')}, {machine}, load of other processes before the run: {load_before:.1f}. "
        f"Client, fake model and gateway share the cores; {_TOKENS} tokens per answer.\n\n{table(rows)}"
    )
    print(text)
    if options.write:
        write(text)


def _ms(seconds: Sequence[float], percentile: int) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, len(ordered) * percentile // 100)] * 1000


if __name__ == "__main__":
    main()
