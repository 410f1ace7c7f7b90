import pytest

from aiia_platform.gateway import GatewayError
from aiia_platform.generations.context import Turn, fit

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
