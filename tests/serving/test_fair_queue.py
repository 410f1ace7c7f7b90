"""The fair queue's contract, on a real Redis."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from aiia_serving.queue import QueueFullError
from tests.fakes.gateway import free_port
from tests.serving.fair import MODEL, Gateways, enter, gateways, turn, until
from tests.support.services import RedisServer
from tests.support.wire import Wire

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def running_server() -> Iterator[RedisServer]:
    with RedisServer(free_port()) as server:
        yield server


@pytest.fixture
def server(running_server: RedisServer) -> RedisServer:
    client = redis.Redis(port=running_server.port)
    client.flushall()
    client.close()
    return running_server


@pytest.fixture
async def pair(server: RedisServer) -> AsyncIterator[Gateways]:
    """Two gateways, one slot, none beyond."""
    async with gateways(server.url, count=2, express=0, max_waiting=3) as pair:
        yield pair


async def test_a_free_slot_is_given_at_once(pair: Gateways) -> None:
    ticket = await enter(pair.queues[0])
    assert ticket.admitted
    assert (ticket.position, ticket.eta_s) == (0, 0)


async def test_two_gateways_are_one_queue(pair: Gateways) -> None:
    first, other = pair.queues
    running = await enter(first)
    told = asyncio.Event()
    here, there = await enter(first, "a"), await enter(other, "b", notify=told.set)
    assert (here.position, there.position) == (1, 2)
    running.release()
    await until(lambda: here.admitted and there.position == 1)
    told.clear()
    here.release()
    await told.wait()
    assert there.admitted


async def test_a_user_with_less_so_far_goes_first(pair: Gateways) -> None:
    queue = pair.queues[0]
    running = await enter(queue, "flood", 10)
    flood = [await enter(queue, "flood", 10), await enter(queue, "flood", 10)]
    quiet = await enter(queue, "quiet")
    assert quiet.position == 1
    running.release()
    await pair.load()
    assert quiet.admitted
    await until(lambda: [ticket.position for ticket in flood] == [1, 2])


async def test_classes_are_strict(pair: Gateways) -> None:
    queue = pair.queues[0]
    running = await enter(queue)
    tickets = [await enter(queue, name, work_class=name) for name in ("batch", "api", "interactive")]
    assert (tickets[2].position, tickets[0].admitted) == (1, False)
    running.release()
    for ticket in reversed(tickets):
        await pair.load()
        assert ticket.admitted
        ticket.release()


async def test_who_waited_long_enough_moves_up(server: RedisServer) -> None:
    async with gateways(server.url, express=0, ageing_s=30) as group:
        queue = group.queues[0]
        running = await enter(queue)
        batch = await enter(queue, "b", work_class="batch")
        await group.pass_time(60)
        urgent = await enter(queue, "i", work_class="interactive")
        assert urgent.position == 2
        running.release()
        await group.load()
        assert batch.admitted
        assert not urgent.admitted


async def test_an_idle_user_has_no_credit(server: RedisServer) -> None:
    async with gateways(server.url, express=0) as group:
        queue = group.queues[0]
        for _ in range(20):
            (await enter(queue, "busy", 10)).release()
        running = await enter(queue, "busy", 10)
        late, busy = [], []
        for _ in range(3):
            late.append(await enter(queue, "late", 10))
            busy.append(await enter(queue, "busy", 10))
        waiting = [*late, *busy]
        order = []
        for _ in range(6):
            running = await turn(group, running, waiting)
            order.append(running in late)
        assert order == [True, False, True, False, True, False] or order == [True, True, False, True, False, False]


async def test_a_newcomer_goes_before_a_flood_that_costs_less_than_was_thought(server: RedisServer) -> None:
    async with gateways(server.url, slots=8) as group:
        queue = group.queues[0]
        running = [await enter(queue, "flood", 100) for _ in range(8)]
        waiting = [await enter(queue, "flood", 100) for _ in range(20)]
        (await enter(queue, "quiet", 100)).release(10)
        for _ in range(10):
            running.append(await turn(group, running.pop(0), waiting, cost=10))
            quiet = await enter(queue, "new", 100)
            assert quiet.admitted
            quiet.release(10)


async def test_weight_is_the_share(server: RedisServer) -> None:
    async with gateways(server.url, express=0) as group:
        queue = group.queues[0]
        running = await enter(queue, "other")
        heavy = [await enter(queue, "heavy", weight=2) for _ in range(9)]
        light = [await enter(queue, "light") for _ in range(9)]
        waiting = [*heavy, *light]
        for _ in range(9):
            running = await turn(group, running, waiting)
        assert sum(ticket.admitted for ticket in heavy) == 6


async def test_the_true_cost_counts_in_the_end(server: RedisServer) -> None:
    async with gateways(server.url, express=0) as group:
        queue = group.queues[0]
        first = await enter(queue, "a", 100)
        a = [await enter(queue, "a", 10) for _ in range(2)]
        b = [await enter(queue, "b", 10) for _ in range(2)]
        waiting = [*a, *b]
        # The estimate would let b go twice before a.
        running = await turn(group, first, waiting, cost=1)
        assert running in b
        running = await turn(group, running, waiting)
        assert running in a


async def test_cost_so_far_counts_before_the_end(server: RedisServer) -> None:
    async with gateways(server.url, slots=2, express=0) as group:
        queue = group.queues[0]
        long, other = await enter(queue, "a", 1), await enter(queue, "b", 10)
        long.progress(1000)
        waiting = [await enter(queue, "a", 1), await enter(queue, "b", 1), await enter(queue, "b", 1)]
        await until(lambda: [ticket.position for ticket in waiting] == [3, 1, 2])
        other.release()


async def test_who_has_nothing_in_flight_need_not_wait_for_a_slot(server: RedisServer) -> None:
    async with gateways(server.url, slots=8) as group:
        queue = group.queues[0]
        flood = [await enter(queue, "flood") for _ in range(20)]
        assert sum(ticket.admitted for ticket in flood) == 8
        quiet, second = await enter(queue, "quiet"), await enter(queue, "second")
        assert quiet.admitted
        assert (quiet.beside, [ticket.beside for ticket in flood[:8]]) == (0, list(range(8)))
        assert not second.admitted
        assert second.position == 1
        flood[0].release()
        await group.load()
        # Now nine run again, one of them beyond the slots.
        assert second.admitted
        assert sum(ticket.admitted for ticket in flood) == 8
        quiet.release()
        assert (await enter(queue, "quiet")).beside == 0


async def test_a_full_queue_refuses(pair: Gateways) -> None:
    for queue in [*pair.queues, *pair.queues]:
        await enter(queue)
    for queue in pair.queues:
        with pytest.raises(QueueFullError) as refused:
            await enter(queue)
        assert refused.value.retry_after_s > 0
    assert (await pair.load()).waiting == 3


async def test_a_flood_leaves_places_to_others(server: RedisServer) -> None:
    async with gateways(server.url, express=0, max_waiting=8) as group:
        queue = group.queues[0]
        for _ in range(8):
            await enter(queue, "flood")
        with pytest.raises(QueueFullError):
            await enter(queue, "flood")
        assert (await enter(queue, "quiet")).position == 1


async def test_a_waiting_ticket_that_leaves_lets_the_others_move_up(pair: Gateways) -> None:
    first, other = pair.queues
    running = await enter(first)
    gone, next_one = await enter(first), await enter(other)
    gone.release(0)
    gone.release(0)
    await until(lambda: next_one.position == 1)
    running.release()
    await until(lambda: next_one.admitted)


async def test_a_passed_deadline_takes_a_waiting_ticket_out(pair: Gateways) -> None:
    running = await enter(pair.queues[0])
    late = await enter(pair.queues[1], deadline_s=0.01)
    await until(lambda: late.expired)
    assert not late.admitted
    assert (await pair.load()).waiting == 0
    running.release()
    late.release()
    assert (await pair.load()).running == 0


async def test_a_model_that_is_not_ready_holds_its_tickets(pair: Gateways) -> None:
    first, other = pair.queues
    first.set_capacity(MODEL, 0)
    await pair.load()
    waiting = [await enter(first), await enter(other)]
    assert waiting[0].eta_s is None
    other.set_capacity(MODEL, 2)
    await pair.load()
    first.set_capacity(MODEL, 2)
    await until(lambda: all(ticket.admitted for ticket in waiting))


async def test_less_capacity_takes_no_slot_away(pair: Gateways) -> None:
    running = await enter(pair.queues[0])
    pair.queues[1].set_capacity(MODEL, 0)
    assert (await pair.load()).running == 1
    assert running.admitted


async def test_the_estimate_comes_from_the_measured_speed(server: RedisServer) -> None:
    async with gateways(server.url, express=0) as group:
        queue = group.queues[0]
        first = await enter(queue, cost=50)
        await group.pass_time(10)
        first.release(100)
        await enter(queue, cost=100)
        second, third = await enter(queue, cost=100), await enter(queue, cost=50)
        assert second.eta_s == pytest.approx(10, rel=0.01)
        assert third.eta_s == pytest.approx(15, rel=0.01)
        load = await group.load()
        assert load.work_s == pytest.approx(15, rel=0.01)
        assert (load.waiting_cost, load.running_cost) == (150, 100)


async def test_models_have_queues_of_their_own_in_their_own_units(pair: Gateways) -> None:
    queue = pair.queues[0]
    await enter(queue, cost=10)
    queue.set_capacity("images", 1)
    image = await enter(queue, cost=4000, unit="gpu_ms", model="images")
    assert image.admitted
    loads = await queue.load()
    assert (loads[MODEL].running_cost, loads["images"].running_cost) == (10, 4000)


async def test_places_and_loads_are_of_all_gateways(pair: Gateways) -> None:
    await enter(pair.queues[0], "a", name="r1", work_class="batch")
    await enter(pair.queues[0], "a", name="r2", work_class="batch")
    await pair.pass_time(2)
    await enter(pair.queues[1], "b", name="r3")
    for queue in pair.queues:
        assert sorted((place.id, place.position) for place in await queue.places()) == [("r1", 0), ("r2", 2), ("r3", 1)]
        assert [place.id for place in await queue.places("b")] == ["r3"]
    load = await pair.load()
    assert (load.waiting, load.running, load.slots) == (2, 1, 1)
    assert load.classes["batch"].oldest_s == pytest.approx(2, abs=0.1)
    assert load.classes["api"].waiting == 1


async def test_a_closed_queue_leaves_nothing_behind(server: RedisServer) -> None:
    async with gateways(server.url, count=2) as pair:
        for _ in range(3):
            await enter(pair.queues[1])
        await pair.queues.pop().close()
        load = await pair.load()
        assert (load.waiting, load.running) == (0, 0)


async def test_a_killed_gateway_gives_everything_back(server: RedisServer) -> None:
    # It has both slots and one place; its words stop when it is killed.
    script = f"""
import asyncio
from aiia_serving.queue import Work
from aiia_serving.queue.fair import RedisQueue

async def main():
    queue = RedisQueue({server.url!r}, gateway_id="doomed")
    queue.set_capacity({MODEL!r}, 2)
    tickets = [await queue.enter(Work({MODEL!r}, "u", "api", 10, id=f"r{{n}}"), lambda: None) for n in range(3)]
    tickets[0].progress(7)
    await asyncio.sleep(1.5)
    print("ready", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.kill()
    await process.wait()
    async with gateways(server.url, count=0) as group:
        for _ in range(3):
            queue = group.open(lease_s=0.5, clock=None)
            queue.set_capacity(MODEL, 2)
        await until(lambda: len(group.abandoned) == 2)
        load = await group.load()
        assert (load.running, load.waiting) == (0, 0)
        assert sorted((work.id, work.user, cost) for work, cost in group.abandoned) == [("r0", "u", 7), ("r1", "u", 0)]


async def test_the_scripts_may_be_flushed(pair: Gateways, server: RedisServer) -> None:
    client = redis.Redis(port=server.port)
    client.script_flush()
    client.close()
    assert (await enter(pair.queues[0])).admitted


async def test_without_redis_the_line_is_first_come_first_served(server: RedisServer) -> None:
    async with gateways(f"redis://127.0.0.1:{free_port()}/0", slots=1, max_waiting=2) as group:
        queue = group.queues[0]
        running = await enter(queue)
        waiting = [await enter(queue), await enter(queue, work_class="interactive")]
        assert [ticket.position for ticket in waiting] == [1, 2]
        with pytest.raises(QueueFullError):
            await enter(queue)
        running.release()
        assert waiting[0].admitted
        load = (await queue.load())[MODEL]
        assert (load.running, load.waiting) == (1, 1)
        assert len(await queue.places()) == 2


async def test_a_silent_redis_holds_nobody(server: RedisServer) -> None:
    wire = Wire(server.port)
    await wire.start()
    async with gateways(f"redis://127.0.0.1:{wire.port}/0", slots=2, timeout_s=0.2) as group:
        queue = group.queues[0]
        running = await enter(queue)
        wire.silence()
        async with asyncio.timeout(60):
            second, third = await enter(queue), await enter(queue)
        assert second.admitted
        assert not third.admitted
        running.release()
        await until(lambda: third.admitted)
        wire.speak()
        group.clock.now += 1
        await until(lambda: queue.connected)
        load = await group.load()
        assert (load.running, load.waiting) == (2, 0)
    await wire.cut()


async def test_a_gateway_that_was_taken_for_dead_comes_back(server: RedisServer) -> None:
    wire = Wire(server.port)
    await wire.start()
    async with gateways(server.url, slots=1, express=0) as group:
        lost = group.open(f"redis://127.0.0.1:{wire.port}/0")
        running, waiting = await enter(lost), await enter(lost)
        await wire.cut()
        # It cannot be heard until the others have given up on it.
        alive = group.queues[0]
        for _ in range(4):
            group.clock.now += 2
            await alive.load()
        await until(lambda: len(group.abandoned) == 1)
        other = await enter(alive)
        assert other.admitted
        await wire.start()
        await until(lambda: waiting.known and lost.connected)
        load = await group.load()
        assert (load.running, load.waiting) == (2, 1)
        other.release()
        running.release()
        await until(lambda: waiting.admitted)
    await wire.cut()


async def test_a_gateway_comes_back_also_while_tickets_come_and_go(server: RedisServer) -> None:
    wire = Wire(server.port)
    await wire.start()
    async with gateways(f"redis://127.0.0.1:{wire.port}/0", slots=2, express=0) as group:
        queue = group.queues[0]
        kept = [await enter(queue)]
        await wire.cut()
        await until(lambda: not queue.connected)

        async def come_and_go() -> None:
            while not queue.connected:
                ticket = await enter(queue)
                await asyncio.sleep(0)
                kept[0].release(1)
                kept[:] = [ticket]

        traffic = asyncio.create_task(come_and_go())
        await wire.start()
        async with asyncio.timeout(60):
            await traffic
        load = await group.load()
        assert (load.running, load.waiting, load.slots) == (1, 0, 2)
        assert kept[0].admitted
        assert (await enter(queue)).admitted
        assert not (await enter(queue)).admitted
    await wire.cut()


async def test_a_restart_of_redis_costs_no_request(running_server: RedisServer) -> None:
    server = RedisServer(free_port())
    server.start()
    try:
        async with gateways(server.url, count=2, slots=2, express=0) as pair:
            first, other = pair.queues
            running = [await enter(first, "a"), await enter(other, "b")]
            waiting = [await enter(first, "a", name="api"), await enter(other, "b", work_class="interactive", name="i")]
            server.kill()
            await until(lambda: not (first.connected or other.connected))
            alone = await enter(first, "c", name="alone")
            assert alone.position == 0 or not alone.admitted
            server.start()
            await until(lambda: first.connected and other.connected)
            # Nobody gets a slot until all can have come back.
            running[0].release()
            running[1].release()
            await pair.pass_time(1)
            await until(lambda: sum(ticket.admitted for ticket in [*waiting, alone]) >= 2)
            load = await pair.load()
            assert (load.running + load.waiting, load.slots) == (3, 2)
            assert {place.id for place in await pair.places()} == {"api", "i", "alone"}
    finally:
        server.kill()
