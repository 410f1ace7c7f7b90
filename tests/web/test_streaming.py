"""Server-sent events of an answer: whatever happens on the way, a browser ends with the whole text."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiia_platform.generations.live import End, Event, Ping, Reasoning, Status, Text
from aiia_platform.generations.position import Position
from aiia_web import streaming
from aiia_web.markdown import Growing, blocks
from aiia_web.streaming import stream

pytestmark = pytest.mark.unit

ANSWER = "# Rome\n\nThree *days*.\n\n- one\n- two\n\n```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nEnd 😀."
THOUGHTS = "Let me think. "


class Browser:
    """What the page's script does with the events, in Python."""

    def __init__(self, shown: str = "", reasoning: str = "", attempt: int = 0) -> None:
        self.blocks = list(blocks(shown))
        self.reasoning = reasoning
        self.last_id = str(Position.of(attempt, shown, reasoning))
        self.status: list[str] = []
        self.done = False
        self.replaced: set[int] = set()

    def receive(self, raw: str) -> None:
        fields = dict(line.split(": ", 1) for line in raw.strip().split("\n"))
        data = json.loads(fields.get("data", "null"))
        match fields.get("event"):
            case "blocks":
                del self.blocks[data["count"] :]
                for index, html in data["changed"]:
                    if index < len(self.blocks):
                        self.blocks[index] = html
                        self.replaced.add(index)
                    else:
                        assert index == len(self.blocks)
                        self.blocks.append(html)
            case "reasoning":
                self.reasoning = data["text"] if data["fresh"] else self.reasoning + data["text"]
            case "status":
                self.status.append(data["text"])
            case "done":
                self.done = True
        self.last_id = fields.get("id", self.last_id)


async def _play(events: Iterable[Event]) -> AsyncIterator[Event]:
    event: Event | None = None
    for event in events:
        await asyncio.sleep(0)
        yield event
    # A source ends with `End` only; one that a test cuts stays open.
    while not isinstance(event, End):
        await asyncio.sleep(0)
        yield Ping()


async def _finish() -> dict[str, str]:
    return {"footer": ""}


async def _connect(browser: Browser, events: Iterable[Event], drop_after: int | None = None) -> None:
    """One connection, which breaks after so many events."""
    body = stream(_play(events), model="m", position=Position.parse(browser.last_id), finish=_finish)
    count = 0
    async for raw in body:
        if drop_after is not None and count >= drop_after:
            await body.aclose()
            return
        count += 1
        browser.receive(raw)


def _tokens(text: str, attempt: int = 1, start: int = 0, size: int = 3) -> list[Event]:
    return [Text(attempt, i, text[i : i + size]) for i in range(start, len(text), size)]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "FRAME", 0)
    monkeypatch.setattr(streaming, "REST", 0)


async def test_an_answer_arrives_whole() -> None:
    browser = Browser()
    await _connect(browser, [Reasoning(1, 0, THOUGHTS), *_tokens(ANSWER), End("done")])
    assert browser.blocks == list(blocks(ANSWER))
    assert browser.reasoning == THOUGHTS
    assert browser.done


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(ANSWER)), st.lists(st.integers(1, 12), max_size=8))
def test_broken_connections_lose_and_repeat_nothing(rendered: int, drops: list[int]) -> None:
    async def scenario() -> Browser:
        browser = Browser(ANSWER[:rendered], THOUGHTS, attempt=1)
        # Each connection begins with all that is stored so far, as one event.
        for number, drop in enumerate(drops):
            known = min(len(ANSWER), rendered + 8 * number)
            stored = [Reasoning(1, 0, THOUGHTS), Text(1, 0, ANSWER[:known])]
            await _connect(browser, [*stored, *_tokens(ANSWER, start=known)], drop)
        await _connect(browser, [Reasoning(1, 0, THOUGHTS), Text(1, 0, ANSWER), End("done")])
        return browser

    browser = asyncio.run(scenario())
    assert browser.blocks == list(blocks(ANSWER))
    assert browser.reasoning == THOUGHTS


async def test_what_the_page_shows_is_not_sent_again() -> None:
    half = ANSWER.index("```")
    browser = Browser(ANSWER[:half], attempt=1)
    finished = len(browser.blocks)
    await _connect(browser, [Text(1, 0, ANSWER[:half]), *_tokens(ANSWER, start=half), End("done")])
    assert browser.blocks == list(blocks(ANSWER))
    assert not browser.replaced & set(range(finished))


async def test_a_new_attempt_that_starts_earlier_cuts() -> None:
    browser = Browser()
    await _connect(browser, [Text(1, 0, "One\n\nTwo\n\nThree"), Text(2, 3, " and\n\nFour"), End("done")])
    assert browser.blocks == list(blocks("One and\n\nFour"))


@pytest.mark.parametrize("now", ["Other words", "One", ""])
async def test_a_browser_that_shows_another_text_gets_this_one_whole(now: str) -> None:
    browser = Browser("One\n\nTwo", "old thoughts", attempt=1)
    await _connect(browser, [Text(2, 0, now), End("done")] if now else [End("stopped")])
    assert browser.blocks == list(blocks(now))
    assert browser.reasoning == ""


async def test_a_store_that_lags_behind_the_browser_takes_nothing_away() -> None:
    browser = Browser(ANSWER[:40], attempt=1)
    shown: list[int] = []
    body = stream(
        _play([Text(1, 0, ANSWER[:20]), Text(1, 20, ANSWER[20:60]), Text(1, 60, ANSWER[60:]), End("done")]),
        model="m",
        position=Position.parse(browser.last_id),
        finish=_finish,
    )
    async for raw in body:
        browser.receive(raw)
        shown.append(len(browser.blocks))
    assert shown == sorted(shown)
    assert browser.blocks == list(blocks(ANSWER))


async def test_long_code_ends_coloured_and_never_holds_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()
    render = Growing.render

    def watched(self: Growing, text: str, *, final: bool = False) -> list[str]:
        if len(text) > streaming.LONG:
            threads.add(threading.current_thread().name)
        return render(self, text, final=final)

    monkeypatch.setattr(Growing, "render", watched)
    text = "```py\n" + "x = 1\n" * 1000
    browser = Browser()
    await _connect(browser, [*_tokens(text, size=200), End("stopped")])
    assert browser.blocks == list(blocks(text))
    assert "MainThread" not in threads
    assert threads


async def test_words_are_sent_when_they_change() -> None:
    browser = Browser()
    phases = [{"phase": "queued", "position": 2}, {"phase": "queued", "position": 2}, {"phase": "writing"}]
    await _connect(browser, [*map(Status, phases), Ping(), End("failed")])
    assert browser.status == ["Queued: 2nd", "Writing"]
    assert browser.done


async def test_the_first_word_goes_out_at_once_and_the_others_in_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "FRAME", 0.05)

    async def slowly() -> AsyncIterator[Event]:
        for event in _tokens("word " * 60, size=5):
            yield event
            await asyncio.sleep(0.004)
        yield End("done")

    start, times = time.monotonic(), []
    async for raw in stream(slowly(), model="m", position=None, finish=_finish):
        if "event: blocks" in raw:
            times.append(time.monotonic() - start)
    assert times[0] < 0.04
    assert 3 <= len(times) <= 60 * 0.01 / 0.05 + 3


@pytest.mark.parametrize("value", ["", "1", "1.2.3", "a.b.c.d", "1.2.3.zz", "-1.2.3.4", "1.2.3.4\n", "٣.1.1.1"])
def test_foreign_ids_are_no_position(value: str) -> None:
    assert Position.parse(value) is None


def test_a_position_survives_the_way_to_the_browser_and_back() -> None:
    position = Position.of(3, ANSWER, THOUGHTS)
    assert Position.parse(str(position)) == position
