"""An accepted message always ends in an honest state, whatever dies. Real processes, a fake model server."""

import asyncio
import json
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from asgiref.sync import sync_to_async

from aiia_platform.generations.live import End, Reasoning, Status, Text, follow
from aiia_platform.generations.models import Generation
from tests.fakes.answers import answer_text, text_of_ids
from tests.support.services import RedisServer
from tests.support.stack import MOST_TOKENS, Stack

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]

Send = Callable[..., Generation]
#: Tokens of the fake's answers, and a speed at which there is time to do harm.
LENGTH = 160
SPEED = 80


@pytest.fixture
def stack(transactional_db: None, redis_server: RedisServer) -> Iterator[Stack]:
    with Stack(redis_server, tokens=LENGTH, tokens_per_second=SPEED) as stack:
        stack.start_worker()
        yield stack


def state(generation: Generation) -> Generation:
    return Generation.objects.select_related("message").get(pk=generation.pk)


def wait_for(generation: Generation, ready: Callable[[Generation], bool], within: float = 30) -> Generation:
    """The generation as soon as it is so. Polls, since what is watched may be what is broken."""
    deadline = time.monotonic() + within
    while not ready(row := state(generation)):
        assert time.monotonic() < deadline, f"{row.state} {row.status} {row.error} after {len(row.message.text)}"
        time.sleep(0.05)
    return row


def has_text(row: Generation) -> bool:
    return len(row.message.text) > 100


def ended(row: Generation) -> bool:
    return not row.is_active


def assert_whole(row: Generation) -> None:
    assert row.state == "done", (row.state, row.error)
    assert row.message.text == answer_text(LENGTH)
    assert text_of_ids(row.output_ids) == row.message.text
    assert row.completion_tokens == LENGTH + 1
    assert row.prompt_tokens == len(row.prompt_ids)


def test_answers(stack: Stack, send: Send) -> None:
    row = wait_for(send(), ended)
    assert_whole(row)
    assert row.attempt == 1
    assert row.duration_s is not None
    assert row.duration_s > LENGTH / SPEED


def test_worker_killed(stack: Stack, send: Send) -> None:
    generation = send()
    wait_for(generation, has_text)
    killed_at = time.monotonic()
    stack.workers[0].send_signal(signal.SIGKILL)
    stack.start_worker()
    row = wait_for(generation, ended, within=15)
    assert_whole(row)
    assert row.attempt == 2
    assert time.monotonic() - killed_at < 15
    last = stack.upstream.requests()[-1]
    assert last["path"] == "/v1/completions"
    assert last["body"]["max_tokens"] == MOST_TOKENS - (len(last["body"]["prompt"]) - len(row.prompt_ids))


def test_worker_killed_and_redis_lost(stack: Stack, send: Send) -> None:
    generation = send()
    wait_for(generation, has_text)
    stack.workers[0].kill()
    stack.redis.kill()
    stack.redis.start()
    stack.start_worker()
    assert_whole(wait_for(generation, ended, within=15))


def test_worker_stopped_gracefully(stack: Stack, send: Send) -> None:
    stack.upstream.control(tokens_per_second=SPEED / 4)
    generation = send()
    wait_for(generation, has_text)
    stack.workers[0].terminate()
    assert stack.workers[0].wait(timeout=10) == 0
    assert state(generation).state == "queued"
    stack.upstream.control(tokens_per_second=SPEED)
    stack.start_worker()
    assert_whole(wait_for(generation, ended, within=15))


def test_second_worker_takes_over(stack: Stack, send: Send) -> None:
    generation = send()
    wait_for(generation, has_text)
    stack.start_worker()
    stack.workers[0].kill()
    assert_whole(wait_for(generation, ended, within=15))


def test_suspended_worker_is_fenced(stack: Stack, send: Send) -> None:
    """A worker that only slept must not write over what its successor wrote."""
    generation = send()
    wait_for(generation, has_text)
    stack.workers[0].send_signal(signal.SIGSTOP)
    stack.start_worker()
    wait_for(generation, lambda row: row.attempt == 2, within=15)
    stack.workers[0].send_signal(signal.SIGCONT)
    row = wait_for(generation, ended, within=15)
    assert_whole(row)
    assert row.attempt == 2


def test_redis_killed(stack: Stack, send: Send) -> None:
    generation = send()
    wait_for(generation, has_text)
    stack.redis.kill()
    try:
        assert_whole(wait_for(generation, ended))
    finally:
        stack.redis.start()


def test_gateway_killed(stack: Stack, send: Send) -> None:
    generation = send()
    wait_for(generation, has_text)
    stack.gateway.kill()
    stack.gateway.__enter__()
    row = wait_for(generation, ended)
    assert_whole(row)
    assert row.attempt == 1


def test_model_killed(stack: Stack, send: Send) -> None:
    generation = send()
    wait_for(generation, has_text)
    stack.upstream.kill()
    stack.upstream.start()
    assert_whole(wait_for(generation, ended))


@pytest.mark.parametrize("fault", ["die", "no_done", "error_frame"])
def test_stream_breaks(stack: Stack, send: Send, fault: str) -> None:
    stack.upstream.control(fault=fault, fault_after=50, fault_times=2)
    row = wait_for(send(), ended)
    assert_whole(row)
    assert [request["path"] for request in stack.upstream.requests()] == [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/completions",
    ]


def test_model_that_cannot_continue_starts_over(transactional_db: None, redis_server: RedisServer, send: Send) -> None:
    with Stack(redis_server, exact_continuation=False, tokens=60, fault="die", fault_after=20, fault_times=1) as stack:
        stack.start_worker()
        row = wait_for(send(), ended)
        assert row.state == "done"
        assert row.message.text == answer_text(60)


def test_model_gone_for_good_fails_and_retry_goes_on(stack: Stack, send: Send) -> None:
    generation = send()
    partial = wait_for(generation, has_text)
    stack.upstream.kill()
    row = wait_for(generation, ended, within=60)
    assert row.state == "failed"
    assert "did not answer" in row.error
    assert row.advice
    assert row.message.text.startswith(partial.message.text)
    stack.upstream.start()
    row.retry()
    assert_whole(wait_for(generation, ended))


def test_failed_for_good_keeps_the_text_of_a_model_that_cannot_continue(
    transactional_db: None, redis_server: RedisServer, send: Send
) -> None:
    with Stack(
        redis_server, exact_continuation=False, tokens=60, fault="die", fault_after=20, tokens_per_second=100
    ) as s:
        s.start_worker()
        generation = send()
        partial = wait_for(generation, lambda row: len(row.message.text) > 40)
        s.upstream.kill()
        row = wait_for(generation, ended)
        assert row.state == "failed"
        assert row.message.text.startswith(partial.message.text)
        s.upstream.start()
        s.upstream.control(fault="none")
        row.retry()
        row = wait_for(generation, ended)
        assert row.state == "done"
        assert row.message.text == answer_text(60)


def test_characters_that_cannot_be_stored_are_left_out(stack: Stack, send: Send) -> None:
    stack.upstream.control(poison="\x00")
    assert_whole(wait_for(send(), ended))


def test_reasoning_is_kept_apart(stack: Stack, send: Send) -> None:
    stack.upstream.control(reasoning_tokens=40)
    row = wait_for(send(), ended)
    assert row.state == "done"
    assert row.message.reasoning + row.message.text == answer_text(LENGTH)
    assert row.message.reasoning == answer_text(40)


def test_refusal_fails_at_once(stack: Stack, send: Send) -> None:
    stack.upstream.control(fault="status", fault_status=400)
    row = wait_for(send(), ended, within=10)
    assert row.state == "failed"
    assert "told to fail" in row.error
    assert row.advice


def test_stop(stack: Stack, send: Send) -> None:
    generation = send()
    row = wait_for(generation, has_text)
    row.stop()
    row = wait_for(generation, ended, within=5)
    assert row.state == "stopped"
    assert answer_text(LENGTH).startswith(row.message.text)
    assert stack.upstream.wait_running(0)["running"] == 0


def test_stop_before_it_began(transactional_db: None, send: Send) -> None:
    generation = send()
    generation.stop()
    assert generation.state == "stopped"


async def read(generation: Generation, until: int | None = None) -> str:
    """What a reader shows that comes now: of the whole answer, or as soon as it is `until` characters."""
    text = ""
    async for event in follow(generation.pk):
        if isinstance(event, Text):
            text = text[: event.offset] + event.text
            if until is not None and len(text) >= until:
                break
        elif isinstance(event, End):
            break
        else:
            assert isinstance(event, Reasoning | Status)
    return text


async def test_reload_at_random_points_shows_everything(stack: Stack, send: Send) -> None:
    """A reload knows nothing but what it is told: first all there is, then the live rest."""
    whole = answer_text(LENGTH)
    generation = await sync_to_async(send)()
    reloads = []
    for point in sorted(random.Random(7).sample(range(1, len(whole) - 60), 20)):
        assert whole.startswith(await read(generation, until=point))
        reloads.append(asyncio.create_task(read(generation)))
    assert set(await asyncio.gather(*reloads)) == {whole}


async def test_two_readers_see_the_same(stack: Stack, send: Send) -> None:
    generation = await sync_to_async(send)()
    texts = await asyncio.gather(*(read(generation) for _ in range(5)))
    assert set(texts) == {answer_text(LENGTH)}


async def test_reader_without_redis(stack: Stack, send: Send) -> None:
    generation = await sync_to_async(send)()
    reader = asyncio.create_task(read(generation))
    await read(generation, until=100)
    await asyncio.to_thread(stack.redis.kill)
    try:
        assert await read(generation) == answer_text(LENGTH)
        assert await reader == answer_text(LENGTH)
    finally:
        await asyncio.to_thread(stack.redis.start)


async def test_reader_of_a_taken_over_answer_sees_no_change(stack: Stack, send: Send) -> None:
    """What was live but not yet stored when the worker died is kept: no reader's text is ever cut."""
    generation = await sync_to_async(send)()
    killed = asyncio.Event()

    async def watch() -> str:
        text = ""
        async for event in follow(generation.pk):
            if isinstance(event, Text):
                assert event.offset == len(text), "text that was shown was cut"
                text += event.text
                if len(text) > 200 and not killed.is_set():
                    stack.workers[0].kill()
                    killed.set()
            elif isinstance(event, End):
                return text
        raise AssertionError

    watching = asyncio.create_task(watch())
    await killed.wait()
    await asyncio.to_thread(stack.start_worker)
    assert await watching == answer_text(LENGTH)


def test_log_has_no_text(stack: Stack, send: Send) -> None:
    """Neither prompts nor answers are logged."""
    assert_whole(wait_for(send("a secret 8f14e45f"), ended))
    log = stack.log.read_text()
    assert "8f14e45f" not in log
    assert "w120 w121" not in log
    assert "Traceback" not in json.dumps(log)
