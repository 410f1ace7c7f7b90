"""Random kills under mixed load: does every request end, complete or with an honest error, and is nothing left behind?

``python -m loadtests.chaos [--kills 100] [--seed 1] [--real] [--write]``. Kills gateways, replicas, Redis, the way to
the manager and the proxy before the replicas, several at a time, while callers ask, wait, leave and ask again. With
``--real`` the replicas are vLLM's on Ray Serve, and manager and HAProxy are the real ones. Ends with 1 when something
is not as it should be.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

from loadtests import report
from loadtests.mixed import Mix, RealMix, Request, Result, ask
from loadtests.stands import KEYS, FakeStand, Part, RealStand, Stand
from tests.fakes.control import INTERNAL_TOKEN

_CALLERS = 16
# As openai-python does, but for longer than a gateway needs to start on a busy machine.
_RETRY_S = 30
_BACK_S = 300
# A dead gateway's leases run out by themselves.
_LEASES_S = 30
# A record of which another gateway died is taken over after half a minute.
_USAGE_S = 60


class Drawer(Protocol):
    def draw(self) -> Request: ...


@dataclass
class Outage:
    """A part that was killed, until it was there again, in ``time.monotonic()``."""

    kind: str
    name: str
    began: float
    ended: float = float("inf")


@dataclass
class Run:
    """What was killed and how every request ended. ``wrong`` has what should not have been."""

    outages: list[Outage] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    seconds: float = 0.0

    def excused(self, result: Result) -> bool:
        """Whether the request's own gateway was killed meanwhile."""
        until = result.began + result.seconds + 0.1
        return any(o.name == result.gateway and o.began <= until and result.began <= o.ended for o in self.outages)

    def without(self, names: Iterable[str]) -> bool:
        """Whether all of these parts are away."""
        return {o.name for o in self.outages if o.ended == float("inf")} >= set(names)

    def summary(self) -> str:
        killed = Counter(outage.kind for outage in self.outages)
        ended = Counter(
            f"{result.ended} {result.detail}" if result.ended == "error" else result.ended for result in self.results
        )
        lines = [
            f"{len(self.outages)} kills in {self.seconds:.0f} s: {_listed(killed)}. "
            f"{len(self.results)} requests ended: {_listed(ended)}. "
            f"{self.lost} usage records of requests whose gateway died.",
        ]
        return "\n".join([*lines, *(f"- WRONG: {what}: {n}" for what, n in Counter(self.wrong).most_common(30))])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.most_common())


async def make_chaos(
    stand: Stand, mix: Drawer, kills: int, dice: random.Random, pause_s: float, callers: int = _CALLERS
) -> Run:
    """``kills`` kills, on average ``pause_s`` apart, then the check of what is left."""
    run, over, began = Run(), asyncio.Event(), time.monotonic()
    # Servers that are killed leave dead connections in a pool.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
        calling = [
            asyncio.create_task(_caller(session, stand, mix, random.Random(dice.random()), run, over))
            for _ in range(callers)
        ]
        await _kill_all(stand.parts, kills, dice, pause_s, run)
        over.set()
        await asyncio.gather(*calling)
        run.wrong += _badly_ended(run)
        run.wrong += await _left_behind(session, stand)
    run.wrong += await asyncio.to_thread(_miscounted, stand, run)
    run.seconds = time.monotonic() - began
    return run


async def _kill_all(parts: list[Part], kills: int, dice: random.Random, pause_s: float, run: Run) -> None:
    away: dict[str, asyncio.Task[None]] = {}

    async def bring_back(part: Part, outage: Outage, after_s: float) -> None:
        await asyncio.sleep(after_s)
        async with asyncio.timeout(_BACK_S):
            await asyncio.to_thread(part.restore)
        outage.ended = time.monotonic()

    kinds = sorted({part.kind for part in parts})
    # Each kind at least once, where there are so many kills.
    first = dice.sample(kinds, len(kinds))
    for kind in [*first, *dice.choices(kinds, k=max(0, kills - len(kinds)))][:kills]:
        await asyncio.sleep(dice.expovariate(1 / pause_s))
        part = dice.choice([part for part in parts if part.kind == kind])
        if part.name in away:
            await away.pop(part.name)
        outage = Outage(part.kind, part.name, time.monotonic())
        run.outages.append(outage)
        await asyncio.to_thread(part.kill)
        away[part.name] = asyncio.create_task(bring_back(part, outage, dice.uniform(0, 2 * pause_s)))
    await asyncio.gather(*away.values())


async def _caller(
    session: aiohttp.ClientSession, stand: Stand, mix: Drawer, dice: random.Random, run: Run, over: asyncio.Event
) -> None:
    """Asks one thing after another; what no gateway took is asked again at any."""
    while not over.is_set():
        request, give_up_at = mix.draw(), time.monotonic() + _RETRY_S
        headers = {"Authorization": f"Bearer {dice.choice(list(KEYS))}"}
        if dice.random() < 0.3:
            work_class = dice.choice(["interactive", "batch"])
            headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}", "X-Aiia-User": "eve", "X-Aiia-Class": work_class}
        while True:
            gateway = dice.choice(list(stand.gateways))
            result = await ask(session, stand.gateways[gateway], request, headers, gateway)
            run.results.append(result)
            if result.ended != "unreachable":
                break
            if run.without(stand.gateways):
                # One that has come back may be killed again at once.
                give_up_at = time.monotonic() + _RETRY_S
            elif time.monotonic() > give_up_at:
                run.wrong.append("no gateway was there for a long time")
                break
            await asyncio.sleep(0.3)


def _badly_ended(run: Run) -> list[str]:
    wrong = [f"{result.kind}: {result.detail}" for result in run.results if result.ended == "wrong"]
    return wrong + [
        f"{result.kind}: {result.ended} ({result.detail}) by a gateway that was not killed"
        for result in run.results
        if result.ended in ("cut", "unreachable") and not run.excused(result)
    ]


async def _left_behind(session: aiohttp.ClientSession, stand: Stand) -> list[str]:
    wrong = []
    if left := await asyncio.to_thread(stand.left_running):
        wrong.append(f"the models still work on {left} requests")
    for name, url in stand.gateways.items():
        give_up_at = time.monotonic() + _LEASES_S
        while held := await _held(session, url):
            if time.monotonic() > give_up_at:
                wrong.append(f"{name} still holds places: {held}")
                break
            await asyncio.sleep(0.5)
    return wrong


async def _held(session: aiohttp.ClientSession, url: str) -> dict[str, tuple[int, int]]:
    """Waiting and running by model, where there is any."""
    async with session.get(f"{url}/queue", headers={"Authorization": f"Bearer {INTERNAL_TOKEN}"}) as response:
        loads = (await response.json())["models"]
    both = {model: (load["waiting"], load["running"]) for model, load in loads.items()}
    return {model: held for model, held in both.items() if any(held)}


def _miscounted(stand: Stand, run: Run) -> list[str]:
    """Whether there is a usage record for each request that was answered, and none for what nobody asked."""
    asked = [result for result in run.results if result.kind != "refused"]
    # Who left or was cut off before the headers may not have been heard. Of a gateway that was killed only Redis knows,
    # and that may be killed as well before anybody has inherited what it knows.
    answered = sum(bool(result.request_id) and not run.excused(result) for result in asked)
    with contextlib.suppress(TimeoutError):
        stand.control.wait_usage(lambda records: len(records) >= answered, _USAGE_S)
    records = stand.control.wait_usage(lambda _: True)
    run.lost = sum(record["outcome"] == "lost" for record in records)
    if answered <= len(records) <= len(asked):
        return []
    return [f"{len(records)} usage records of {answered} answered and {len(asked)} asked requests"]


def fake_chaos(kills: int, dice: random.Random, pause_s: float = 1) -> Run:
    with FakeStand() as stand:
        return asyncio.run(make_chaos(stand, Mix(dice, stand.MODEL, stand.TOKENS), kills, dice, pause_s))


def real_chaos(kills: int, dice: random.Random, pause_s: float = 8) -> Run:
    async def listen_and_kill(stand: RealStand) -> Run:
        mix = RealMix(dice, stand.MODEL)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {INTERNAL_TOKEN}"}) as session:
            heard = await mix.listen(session, next(iter(stand.gateways.values())), {})
        # They are not of the run.
        await asyncio.to_thread(stand.control.wait_usage, lambda records: len(records) >= heard, _USAGE_S)
        stand.control.forget_usage()
        return await make_chaos(stand, mix, kills, dice, pause_s, callers=6)

    with RealStand() as stand:
        return asyncio.run(listen_and_kill(stand))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--real", action="store_true", help="vLLM, Ray Serve, HAProxy and the manager as they are")
    parser.add_argument("--write", action="store_true", help="put the result into docs/benchmarks.md")
    options = parser.parse_args()
    machine = report.machine()
    print(f"seed {options.seed}")
    dice = random.Random(options.seed)
    run = real_chaos(options.kills, dice) if options.real else fake_chaos(options.kills, dice)
    print(run.summary())
    if options.write:
        report.write(
            "chaos real" if options.real else "chaos",
            f"{machine} just before the run. Seed {options.seed}. {run.summary()}",
        )
    sys.exit(1 if run.wrong else 0)


if __name__ == "__main__":
    main()
