"""Images in the queue: GPU milliseconds for tokens, and batch work that leaves room for who is in a hurry."""

from collections import defaultdict
from collections.abc import Iterator
from random import Random

import pytest

from aiia_serving.gateway.images.pace import Paces
from aiia_serving.images.job import Job
from aiia_serving.queue import Ticket, Work, WorkClass
from aiia_serving.queue.fifo import FifoQueue
from tests.fakes.gateway import free_port
from tests.serving.fair import MODEL, enter, gateways, until
from tests.support.services import RedisServer

pytestmark = pytest.mark.integration

WRITER = "org/writer"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(free_port()) as server:
        yield server


async def test_batch_images_leave_the_last_slot(server: RedisServer) -> None:
    async with gateways(server.url, slots=3, ageing_s=60) as group:
        queue = group.queues[0]
        batch = [await enter(queue, user, 100, "batch", unit="gpu_ms") for user in ("a", "b", "c")]
        assert [ticket.admitted for ticket in batch] == [True, True, False]
        hurried = await enter(queue, "d", 100, "interactive", unit="gpu_ms")
        assert hurried.admitted
        hurried.release(100)
        await group.load()
        assert not batch[2].admitted
        # Not for ever: who has waited so long that it moves up takes it.
        await group.pass_time(61)
        await until(lambda: batch[2].admitted)


async def test_batch_tokens_take_every_slot(server: RedisServer) -> None:
    async with gateways(server.url, slots=2) as group:
        assert all([(await enter(group.queues[0], user, 10, "batch")).admitted for user in ("a", "b")])


async def test_batch_images_leave_the_last_slot_without_redis() -> None:
    queue = FifoQueue(max_waiting=9)
    queue.set_capacity(MODEL, 2)

    async def come(work_class: WorkClass) -> Ticket:
        return await queue.enter(Work(MODEL, "u", work_class, 1, "gpu_ms"), lambda: None)

    first, second, hurried = await come("batch"), await come("batch"), await come("interactive")
    assert (first.admitted, second.admitted, hurried.admitted) == (True, False, True)
    first.release()
    assert not second.admitted
    hurried.release()
    assert second.admitted


async def test_shares_of_three_users_with_tokens_and_images(server: RedisServer) -> None:
    """Two models on one device, of which one draws: within 10 % of the weights, whatever the estimates were."""
    random, weights = Random(7), {"a": 1.0, "b": 2.0, "c": 1.0}
    async with gateways(server.url, slots=2) as group:
        queue = group.queues[0]
        queue.set_capacity(WRITER, 2)
        spent: dict[str, dict[str, float]] = {MODEL: defaultdict(float), WRITER: defaultdict(float)}

        async def come(user: str, model: str) -> tuple[Ticket, str, float]:
            cost = random.choice((500.0, 2000.0, 8000.0)) if model == MODEL else random.uniform(100, 3000)
            guess = cost * random.uniform(0.3, 3)
            unit = "gpu_ms" if model == MODEL else "tokens"
            ticket = await enter(queue, user, guess, unit=unit, weight=weights[user], model=model)  # type: ignore[arg-type]
            return ticket, user, cost

        open_ = {model: [await come(user, model) for user in weights for _ in range(6)] for model in spent}
        for _ in range(400):
            for model, tickets in open_.items():
                await group.load()
                over = next(entry for entry in tickets if entry[0].admitted)
                tickets.remove(over)
                ticket, user, cost = over
                ticket.release(cost)
                spent[model][user] += cost
                tickets.append(await come(user, model))
    for by_user in spent.values():
        total = sum(by_user.values())
        for user, weight in weights.items():
            assert by_user[user] / total == pytest.approx(weight / 4, rel=0.1), dict(by_user)


def test_the_cost_of_an_image_is_learnt() -> None:
    paces, job = Paces(), Job(work="generate", width=512, height=512, steps=10)
    paces.learn("m", job, 1000, (512, 512), 10)
    assert paces.estimate("m", job) == pytest.approx(1000)
    larger = Job(work="generate", width=1024, height=512, steps=20, n=3)
    assert paces.estimate("m", larger) == pytest.approx(12_000)
    # What the model does by itself is learnt from what it did.
    paces.learn("m", Job(work="generate"), 4000, (1024, 1024), 10)
    assert paces.estimate("m", Job(work="generate")) == pytest.approx(4000)
    upscale = Job(work="upscale", images=["AAAA"], scale=2.0)
    paces.learn("m", upscale, 50, (1024, 1024), 0)
    assert paces.estimate("m", upscale) == pytest.approx(50)
    assert paces.estimate("m", Job(work="generate")) == pytest.approx(4000)
    assert paces.estimate("other", job) > 0
