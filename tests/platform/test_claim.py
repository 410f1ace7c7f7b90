"""Fencing: of several workers, one owns a generation."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from aiia_platform.generations.models import PRESENCE, ChatBusy, Fenced, Generation, StillRunning

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

Send = Callable[..., Generation]


#: Numbers of two workers; both live as long as the test's connection, unless they are let die.
FIRST, SECOND = 2**31 - 1, 7


@pytest.fixture(autouse=True)
def workers(db: None) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s), pg_advisory_lock(%s, %s)", [PRESENCE, FIRST, PRESENCE, SECOND])
    yield
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")


def claim(generation: Generation, worker: int = FIRST) -> Generation:
    claimed = Generation.claim(generation.pk, worker, lambda row: None)
    assert claimed is not None
    return claimed


def let_die(worker: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [PRESENCE, worker])


def let_hang(generation: Generation) -> None:
    Generation.objects.filter(pk=generation.pk).update(heartbeat_at=timezone.now() - timedelta(seconds=6))


def test_claimed_once_while_its_worker_lives(send: Send) -> None:
    generation = send()
    assert claim(generation).attempt == 1
    with pytest.raises(StillRunning):
        claim(generation)


def test_taken_over_at_once_when_its_worker_died(send: Send) -> None:
    generation = send()
    claim(generation)
    assert not Generation.objects.abandoned().exists()
    let_die(FIRST)
    assert list(Generation.objects.abandoned()) == [generation]
    assert claim(generation, SECOND).attempt == 2


def test_taken_over_when_its_worker_hangs(send: Send) -> None:
    generation = send()
    first = claim(generation)
    let_hang(generation)
    assert list(Generation.objects.abandoned()) == [generation]
    second = claim(generation, SECOND)
    second.message.text = "of the second"
    second.write()
    first.message.text = "of the first"
    for verb in (first.write, first.start_over, first.release, lambda: first.finish(Generation.State.DONE, {})):
        with pytest.raises(Fenced):
            verb()
    second.refresh_from_db()
    assert second.message.text == "of the second"
    assert second.state == "running"


def test_finished_is_never_claimed_again(send: Send) -> None:
    generation = send()
    claim(generation).finish(Generation.State.DONE, {"phase": "done"})
    assert Generation.claim(generation.pk, SECOND, lambda row: None) is None
    late = Generation.objects.get(pk=generation.pk)
    with pytest.raises(Fenced):
        late.write()


def test_deleted_chat_ends_its_generation(send: Send) -> None:
    generation = send()
    running = claim(generation)
    generation.message.chat.delete()
    assert Generation.claim(generation.pk, SECOND, lambda row: None) is None
    with pytest.raises(Fenced):
        running.write()


def test_retry_waits_for_the_answer_that_is_being_written(send: Send) -> None:
    stopped = send()
    stopped.stop()
    send("And now?", stopped.message.chat)
    with pytest.raises(ChatBusy):
        stopped.retry()


def test_write_tells_of_a_stop(send: Send) -> None:
    generation = send()
    running = claim(generation)
    assert running.write() is False
    generation.stop()
    assert running.write() is True


def test_retry_goes_on_with_what_is_there(send: Send) -> None:
    generation = send()
    running = claim(generation)
    running.message.text, running.output_ids = "so far", [1, 2]
    running.finish(Generation.State.FAILED, {"phase": "failed"}, "It broke", "Retry")
    generation.refresh_from_db()
    generation.retry()
    assert (generation.state, generation.error) == ("queued", "")
    again = claim(generation)
    assert (again.message.text, again.output_ids, again.attempt) == ("so far", [1, 2], 2)
    generation.refresh_from_db()
    generation.retry()
    assert generation.state == "running"
