import pytest

from aiia_platform.gateway import GatewayError
from aiia_platform.generations.context import Conversation, Turn, as_messages, compose, fit, shorten

pytestmark = pytest.mark.unit


class WordCounter:
    """Counts a word as a token."""

    def __init__(self) -> None:
        self.calls = 0

    async def count_tokens(self, model: str, messages: list[dict[str, str]]) -> int:
        self.calls += 1
        return sum(len(message["content"].split()) for message in messages)


class NoCounter:
    async def count_tokens(self, model: str, messages: list[dict[str, str]]) -> int:
        raise GatewayError(404, "no tokenizer")


def conversation(turns: int, words: int) -> list[Turn]:
    return [Turn(i, "user" if i % 2 == 0 else "assistant", "word " * words) for i in range(turns)]


async def test_short_conversation_is_sent_whole_without_counting() -> None:
    counter = WordCounter()
    turns = conversation(3, 5)
    assert await fit(counter, "m", turns, 2048) == turns  # type: ignore[arg-type]
    assert counter.calls == 0


async def test_conversation_that_fits_by_count_is_sent_whole() -> None:
    turns = conversation(9, 100)
    assert await fit(WordCounter(), "m", turns, 2048) == turns  # type: ignore[arg-type]


@pytest.mark.parametrize("counter", [WordCounter(), NoCounter()])
async def test_too_long_a_conversation_loses_its_oldest_turns(counter: object) -> None:
    turns = conversation(41, 100)
    kept = await fit(counter, "m", turns, 2048)  # type: ignore[arg-type]
    assert kept == turns[-len(kept) :]
    assert kept[0].role == "user"
    assert sum(len(turn.text.split()) for turn in kept) <= 1536 // 2


async def test_prefix_stays_while_the_freed_room_lasts() -> None:
    turns = conversation(41, 100)
    first = (await fit(WordCounter(), "m", turns, 2048))[0]  # type: ignore[arg-type]
    longer = [*turns[first.position :], Turn(41, "assistant", "word " * 100), Turn(42, "user", "word " * 100)]
    assert (await fit(WordCounter(), "m", longer, 2048))[0] == first  # type: ignore[arg-type]


async def test_question_that_is_too_long_alone_is_left_to_the_model_to_refuse() -> None:
    turns = conversation(1, 5000)
    assert await fit(WordCounter(), "m", turns, 2048) == turns  # type: ignore[arg-type]


async def test_the_system_prompt_is_always_sent_and_policies_cut_at_a_question() -> None:
    found = Conversation(conversation(10, 5), system="Be brief", policy={"strategy": "last", "messages": 3})
    kept = await compose(WordCounter(), "m", found, None)
    assert [(turn.role, turn.position) for turn in kept] == [("system", -1), ("user", 8), ("assistant", 9)]
    found = Conversation(conversation(9, 100), system="Be brief", policy={"strategy": "budget", "tokens": 300})
    kept = await compose(WordCounter(), "m", found, None)
    assert kept[0].text == "Be brief"
    assert kept[1].role == "user"
    assert sum(len(turn.text.split()) for turn in kept[1:]) <= 300


async def test_a_summary_stands_before_what_follows_it() -> None:
    kept = await compose(WordCounter(), "m", Conversation(conversation(2, 5), summary="Rome was chosen"), None)
    assert kept[0].role == "system"
    assert "Rome was chosen" in kept[0].text


async def test_older_messages_are_summarised_when_they_no_longer_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    async def nothing(messages: list[dict[str, object]]) -> str:
        asked.append(messages)
        return ""

    short = Conversation(conversation(4, 5))
    assert await shorten(WordCounter(), "m", short, 1000, nothing) == short
    assert not asked
    long = Conversation(conversation(20, 100))
    # A model that cannot summarise leaves everything as it was.
    assert await shorten(WordCounter(), "m", long, 1000, nothing) == long
    assert len(asked) == 1


def test_turns_of_one_role_in_a_row_become_one() -> None:
    turns = [Turn(0, "user", "One"), Turn(1, "user", "Two", (("cat.png", "data:x"),)), Turn(2, "assistant", "Three")]
    assert as_messages(turns, named=True) == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "One\n\nTwo"}, {"type": "image_url", "image_url": {"url": "cat.png"}}],
        },
        {"role": "assistant", "content": "Three"},
    ]
