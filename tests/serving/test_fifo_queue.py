"""The queue's contract, as today's first-come-first-served queue keeps it."""

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


def enter(queue: FifoQueue, calls: list[str] | None = None, name: str = "") -> Ticket:
    work = Work(MODEL, user="u", work_class="api", cost=1)
    return queue.enter(work, lambda: calls.append(name) if calls is not None else None)


def test_a_free_slot_is_given_at_once(queue: FifoQueue) -> None:
    ticket = enter(queue)
    assert ticket.admitted
    assert ticket.position == 0
    assert ticket.eta_s == 0


def test_tickets_go_in_the_order_they_came(queue: FifoQueue) -> None:
    running, second, third = enter(queue), enter(queue), enter(queue)
    assert (second.position, third.position) == (1, 2)
    running.release()
    assert second.admitted
    assert third.position == 1


def test_a_full_queue_refuses(queue: FifoQueue) -> None:
    for _ in range(4):
        enter(queue)
    with pytest.raises(QueueFullError) as refused:
        enter(queue)
    assert refused.value.retry_after_s > 0


def test_a_waiting_ticket_that_leaves_lets_the_others_move_up(queue: FifoQueue) -> None:
    running, second, third = enter(queue), enter(queue), enter(queue)
    second.release()
    second.release()
    assert third.position == 1
    running.release()
    assert third.admitted


def test_everyone_who_moves_is_told(queue: FifoQueue) -> None:
    calls: list[str] = []
    running = enter(queue, calls, "first")
    enter(queue, calls, "second")
    enter(queue, calls, "third")
    calls.clear()
    running.release()
    assert calls == ["second", "third"]


def test_a_model_that_is_not_ready_holds_its_tickets(queue: FifoQueue) -> None:
    queue.set_capacity(MODEL, 0)
    waiting = [enter(queue), enter(queue)]
    assert [ticket.position for ticket in waiting] == [1, 2]
    assert waiting[0].eta_s is None
    queue.set_capacity(MODEL, 2)
    assert all(ticket.admitted for ticket in waiting)


def test_less_capacity_takes_no_slot_away(queue: FifoQueue) -> None:
    running = enter(queue)
    queue.set_capacity(MODEL, 0)
    assert running.admitted


def test_the_estimate_comes_from_how_long_requests_took(queue: FifoQueue, clock: Clock) -> None:
    first = enter(queue)
    clock.now = 10
    first.release()
    enter(queue)
    second, third = enter(queue), enter(queue)
    assert (second.eta_s, third.eta_s) == (10, 20)


def test_models_do_not_share_a_line(queue: FifoQueue) -> None:
    enter(queue)
    queue.set_capacity("other", 1)
    assert queue.enter(Work("other", "u", "api", 1), lambda: None).admitted
