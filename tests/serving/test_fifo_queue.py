"""The queue's contract, as the first-come-first-served queue keeps it."""

import asyncio

import pytest

from aiia_serving.queue import QueueFullError, Ticket, Work
from aiia_serving.queue.fifo import FifoQueue

pytestmark = pytest.mark.unit

MODEL = "m"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> FifoQueue:
    queue = FifoQueue(max_waiting=3, clock=clock)
    queue.set_capacity(MODEL, 1)
    return queue


async def enter(queue: FifoQueue, calls: list[str] | None = None, name: str = "") -> Ticket:
    work = Work(MODEL, user="u", work_class="api", cost=1)
    return await queue.enter(work, lambda: calls.append(name) if calls is not None else None)


async def test_a_free_slot_is_given_at_once(queue: FifoQueue) -> None:
    ticket = await enter(queue)
    assert ticket.admitted
    assert ticket.position == 0
    assert ticket.eta_s == 0


async def test_tickets_go_in_the_order_they_came(queue: FifoQueue) -> None:
    running, second, third = await enter(queue), await enter(queue), await enter(queue)
    assert (second.position, third.position) == (1, 2)
    running.release()
    assert second.admitted
    assert third.position == 1


async def test_a_full_queue_refuses(queue: FifoQueue) -> None:
    for _ in range(4):
        await enter(queue)
    with pytest.raises(QueueFullError) as refused:
        await enter(queue)
    assert refused.value.retry_after_s > 0


async def test_a_waiting_ticket_that_leaves_lets_the_others_move_up(queue: FifoQueue) -> None:
    running, second, third = await enter(queue), await enter(queue), await enter(queue)
    second.release()
    second.release()
    assert third.position == 1
    running.release()
    assert third.admitted


async def test_everyone_who_moves_is_told(queue: FifoQueue) -> None:
    calls: list[str] = []
    running = await enter(queue, calls, "first")
    await enter(queue, calls, "second")
    await enter(queue, calls, "third")
    calls.clear()
    running.release()
    assert calls == ["second", "third"]


async def test_a_model_that_is_not_ready_holds_its_tickets(queue: FifoQueue) -> None:
    queue.set_capacity(MODEL, 0)
    waiting = [await enter(queue), await enter(queue)]
    assert [ticket.position for ticket in waiting] == [1, 2]
    assert waiting[0].eta_s is None
    queue.set_capacity(MODEL, 2)
    assert all(ticket.admitted for ticket in waiting)


async def test_less_capacity_takes_no_slot_away(queue: FifoQueue) -> None:
    running = await enter(queue)
    queue.set_capacity(MODEL, 0)
    assert running.admitted


async def test_the_estimate_comes_from_how_long_requests_took(queue: FifoQueue, clock: Clock) -> None:
    first = await enter(queue)
    clock.now = 10
    first.release()
    await enter(queue)
    second, third = await enter(queue), await enter(queue)
    assert (second.eta_s, third.eta_s) == (10, 20)


async def test_models_do_not_share_a_line(queue: FifoQueue) -> None:
    await enter(queue)
    queue.set_capacity("other", 1)
    assert (await queue.enter(Work("other", "u", "api", 1), lambda: None)).admitted


async def test_a_passed_deadline_takes_a_waiting_ticket_out(queue: FifoQueue) -> None:
    running = await enter(queue)
    told = asyncio.Event()
    late = await queue.enter(Work(MODEL, "u", "api", 1, deadline_s=0.01), told.set)
    last = await enter(queue)
    await told.wait()
    assert late.expired
    assert not late.admitted
    assert last.position == 1
    running.release()
    assert last.admitted


async def test_a_deadline_bounds_the_wait_alone(queue: FifoQueue) -> None:
    running = await queue.enter(Work(MODEL, "u", "api", 1, deadline_s=0), lambda: None)
    await asyncio.sleep(0)
    assert running.admitted
    assert not running.expired


async def test_the_load_counts_what_waits_and_what_runs(queue: FifoQueue, clock: Clock) -> None:
    (await enter(queue)).release()
    await enter(queue)
    await queue.enter(Work(MODEL, "u", "batch", 5), lambda: None)
    clock.now = 3
    load = (await queue.load())[MODEL]
    assert (load.waiting, load.running, load.slots, load.waiting_cost, load.running_cost) == (1, 1, 1, 5, 1)
    assert load.classes["batch"].oldest_s == 3


async def test_places_can_be_asked_for_one_user(queue: FifoQueue) -> None:
    await enter(queue)
    await queue.enter(Work(MODEL, "other", "api", 1, id="r1"), lambda: None)
    assert [(place.id, place.position) for place in await queue.places("other")] == [("r1", 1)]
    assert len(await queue.places()) == 2


async def test_a_closed_queue_holds_nothing(queue: FifoQueue) -> None:
    tickets = [await enter(queue), await enter(queue)]
    await queue.close()
    assert not tickets[1].admitted
    assert await queue.places() == []
