"""What must hold of the fair queue whatever happens, on a real Redis with several gateways."""

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aiia_serving.queue import Ticket, Unit, WorkClass
from aiia_serving.queue.fair import RedisQueue
from tests.fakes.gateway import free_port
from tests.serving.fair import MODEL, Gateways, enter, gateways, until
from tests.support.services import RedisServer
from tests.support.wire import Wire

pytestmark = pytest.mark.integration

CLASSES: tuple[WorkClass, ...] = ("interactive", "api", "batch")
AGEING_S = 30
T = TypeVar("T")

examples = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(free_port()) as server:
        yield server


def empty(server: RedisServer) -> None:
    client = redis.Redis(port=server.port)
    client.flushall()
    client.close()


async def names_that_run(group: Gateways) -> set[str]:
    return {place.id for place in await group.places() if place.position == 0}


@given(
    slots=st.integers(1, 10),
    weights=st.tuples(st.sampled_from([0.5, 1, 2]), st.sampled_from([0.5, 1, 2])),
    costs=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=12, max_size=30),
    ends=st.lists(st.integers(0, 9), min_size=40, max_size=40),
    unit=st.sampled_from(["tokens", "gpu_ms"]),
)
@examples
def test_two_users_who_always_want_more_get_the_same(
    server: RedisServer,
    slots: int,
    weights: tuple[float, float],
    costs: list[tuple[int, int]],
    ends: list[int],
    unit: Unit,
) -> None:
    """The service of one differs from that of the other, each by weight, by at most two of the largest requests."""

    async def check() -> None:
        async with gateways(server.url, count=2, slots=0) as group:
            tickets = {}
            for number, pair in enumerate(costs):
                for user in (0, 1):
                    name, queue = f"{user}.{number}", group.queues[user]
                    tickets[name] = await enter(
                        queue, f"user{user}", pair[user], weight=weights[user], unit=unit, name=name
                    )
            for queue in group.queues:
                queue.set_capacity(MODEL, slots)
            bound = 2 * max(cost / weight for pair in costs for cost, weight in zip(pair, weights, strict=True))
            served: list[list[float]] = [[], []]
            ended: set[str] = set()
            for end in ends:
                running = await names_that_run(group)
                for user in (0, 1):
                    own = [n for n in range(len(costs)) if f"{user}.{n}" in running | ended]
                    assert own == list(range(len(own))), "a user's requests go in the order they came"
                    served[user] = [costs[n][user] / weights[user] for n in own]
                if max(map(len, served)) == len(costs) or not running:
                    break
                assert abs(sum(served[0]) - sum(served[1])) <= bound
                over = sorted(running)[end % len(running)]
                tickets[over].release()
                ended.add(over)

    empty(server)
    asyncio.run(check())


@given(
    work_class=st.sampled_from(CLASSES), slots=st.integers(1, 3), step_s=st.integers(1, 9), past=st.integers(0, 10_000)
)
@examples
def test_nobody_starves(server: RedisServer, work_class: WorkClass, slots: int, step_s: int, past: int) -> None:
    """Not the user of the lowest class with the most service so far, while ever new users come with urgent work."""

    async def check() -> None:
        async with gateways(server.url, slots=slots, ageing_s=AGEING_S) as group:
            queue = group.queues[0]
            (await enter(queue, "poor", past, work_class)).release()
            tickets: dict[str, Ticket] = {}

            async def urgent() -> None:
                name = f"u{len(tickets)}"
                tickets[name] = await enter(queue, name, 1, "interactive", name=name)

            for _ in range(slots + 3):
                await urgent()
            poor = await enter(queue, "poor", 1, work_class, name="poor")
            waited_s = 0
            while not poor.admitted:
                # By then it is at the front of all, behind those alone who have waited longer.
                assert waited_s <= (CLASSES.index(work_class) + 1) * AGEING_S + (slots + 5) * step_s
                await urgent()
                await group.pass_time(step_s)
                waited_s += step_s
                tickets[min(await names_that_run(group))].release()
                await group.load()

    empty(server)
    asyncio.run(check())


@dataclass
class Gateway:
    """One gateway, with the wire that it reaches Redis by."""

    queue: RedisQueue
    wire: Wire
    tickets: dict[str, Ticket] = field(default_factory=dict)


class FairQueueMachine(RuleBasedStateMachine):
    """Requests come, go and make progress, gateways die, Redis restarts. After each step all is as it should be."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        empty(self.server)
        self.loop = asyncio.new_event_loop()
        self.group = Gateways(self.server.url, ageing_s=AGEING_S, lease_s=5)
        self.alive: list[Gateway] = []
        self.slots = 0
        self.count = 0
        self.running: set[str] = set()
        #: Whether the last step let gateways go on alone, each with all slots.
        self.apart = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize(slots=st.integers(0, 9), count=st.integers(1, 3))
    def start(self, slots: int, count: int) -> None:
        for _ in range(count):
            self.join()
        self.capacity(slots)

    @precondition(lambda self: len(self.alive) < 3)
    @rule()
    def join(self) -> None:
        async def join() -> None:
            wire = Wire(self.server.port)
            await wire.start()
            queue = self.group.open(f"redis://127.0.0.1:{wire.port}/0")
            self.alive.append(Gateway(queue, wire))
            queue.set_capacity(MODEL, self.slots)
            await self.settle()

        self.run(join())

    @rule(slots=st.integers(0, 9))
    def capacity(self, slots: int) -> None:
        async def tell() -> None:
            self.slots = slots
            for gateway in self.alive:
                gateway.queue.set_capacity(MODEL, slots)
            await self.settle()

        self.run(tell())

    @rule(
        which=st.integers(0, 2),
        user=st.sampled_from("abc"),
        cost=st.integers(1, 50),
        work_class=st.sampled_from(CLASSES),
        times=st.integers(1, 4),
    )
    def enter(self, which: int, user: str, cost: int, work_class: WorkClass, times: int) -> None:
        async def come() -> None:
            gateway = self.alive[which % len(self.alive)]
            for _ in range(times):
                self.count += 1
                name = f"r{self.count:03}"
                gateway.tickets[name] = await enter(gateway.queue, user, cost, work_class, name=name)
            await self.settle()

        self.run(come())

    @precondition(lambda self: any(gateway.tickets for gateway in self.alive))
    @rule(data=st.data(), cost=st.sampled_from([None, 0, 5, 80]), times=st.integers(1, 3))
    def release(self, data: st.DataObject, cost: float | None, times: int) -> None:
        async def go() -> None:
            for _ in range(times):
                held = [(gateway, name) for gateway in self.alive for name in sorted(gateway.tickets)]
                if held:
                    gateway, name = data.draw(st.sampled_from(held))
                    ticket = gateway.tickets.pop(name)
                    ticket.release(cost)
                    ticket.release(cost)
            await self.settle()

        self.run(go())

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost=st.integers(0, 200))
    def progress(self, data: st.DataObject, cost: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        for gateway in self.alive:
            if name in gateway.tickets:
                gateway.tickets[name].progress(cost)

    @rule(seconds=st.integers(1, 40))
    def pass_time(self, seconds: int) -> None:
        self.run(self.group.pass_time(seconds))

    @precondition(lambda self: len(self.alive) > 1)
    @rule(which=st.integers(0, 2))
    def die(self, which: int) -> None:
        async def die() -> None:
            dead = self.alive.pop(which % len(self.alive))
            self.group.queues.remove(dead.queue)
            await dead.wire.cut()
            await dead.queue.close()
            lost = sorted(self.running & dead.tickets.keys())
            before = len(self.group.abandoned)
            await self.group.pass_time(10)
            await self.settle()
            await until(lambda: len(self.group.abandoned) - before >= len(lost))
            await self.group.pass_time(10)
            assert sorted(work.id for work, _ in self.group.abandoned[before:]) == lost

        self.run(die())

    @rule(meanwhile=st.integers(0, 2))
    def restart_redis(self, meanwhile: int) -> None:
        async def wait_up(up: bool) -> None:
            await until(lambda: all(gateway.queue.connected == up for gateway in self.alive))

        async def restart() -> None:
            self.server.kill()
            await wait_up(False)
            for _ in range(meanwhile):
                self.count += 1
                name = f"r{self.count:03}"
                self.alive[0].tickets[name] = await enter(self.alive[0].queue, "a", name=name)
            self.server.start()
            await wait_up(True)
            self.apart = True
            await self.group.pass_time(1.5)
            await self.settle()

        self.run(restart())

    async def settle(self) -> None:
        """Waits until what the gateways hold is what Redis holds, and no more is due."""
        held: dict[str, bool] = {}
        there: dict[str, bool] = {}

        async def agree() -> bool:
            places = await self.group.places()
            assert not [name for name, times in Counter(place.id for place in places).items() if times > 1]
            there.clear()
            there.update({place.id: place.position == 0 for place in places})
            held.clear()
            held.update({name: ticket.admitted for gateway in self.alive for name, ticket in gateway.tickets.items()})
            return there == held

        try:
            async with asyncio.timeout(60):
                while not await agree():  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(f"Redis has {there}, the gateways have {held}") from None

    @invariant()
    def slots_are_given_once_and_none_is_idle(self) -> None:
        async def check() -> None:
            load = await self.group.load()
            assert load.slots == self.slots
            if load.waiting:
                assert load.running >= load.slots
            running = await names_that_run(self.group)
            if running - self.running and not self.apart:
                assert len(running) <= self.slots + math.ceil(self.slots / 8)
            self.running, self.apart = running, False

        if self.alive:
            self.run(check())

    def teardown(self) -> None:
        async def end() -> None:
            await self.group.close()
            for gateway in self.alive:
                await gateway.wire.cut()

        self.run(end())
        self.loop.close()


def test_whatever_happens(server: RedisServer) -> None:
    FairQueueMachine.server = server
    run_state_machine_as_test(
        FairQueueMachine,
        settings=settings(
            max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
