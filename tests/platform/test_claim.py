"""Fencing: of several workers, one owns a generation."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from aiia_platform.generations.models import Fenced, Generation, StillRunning
from django.utils import timezone

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

Send = Callable[..., Generation]


def claim(generation: Generation) -> Generation:
    claimed = Generation.claim(generation.pk, lambda row: None)
    assert claimed is not None
    return claimed


def let_die(generation: Generation) -> None:
    Generation.objects.filter(pk=generation.pk).update(heartbeat_at=timezone.now() - timedelta(seconds=6))


def test_claimed_once_while_its_worker_lives(send: Send) -> None:
    generation = send()
    assert claim(generation).attempt == 1
    with pytest.raises(StillRunning):
        claim(generation)


def test_taken_over_when_its_worker_died(send: Send) -> None:
    generation = send()
    first = claim(generation)
    let_die(generation)
    assert list(Generation.objects.abandoned()) == [generation]
    second = claim(generation)
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
    assert Generation.claim(generation.pk, lambda row: None) is None
    late = Generation.objects.get(pk=generation.pk)
    with pytest.raises(Fenced):
        late.write()


def test_deleted_chat_ends_its_generation(send: Send) -> None:
    generation = send()
    running = claim(generation)
    generation.message.chat.delete()
    assert Generation.claim(generation.pk, lambda row: None) is None
    with pytest.raises(Fenced):
        running.write()


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
