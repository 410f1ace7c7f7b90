import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiia_platform.generations.answer import Answer

pytestmark = pytest.mark.unit


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(text=st.text(min_size=1, max_size=10), data=st.data())
def test_any_overlapping_pieces_in_order_make_the_text(text: str, data: st.DataObject) -> None:
    """However a text is cut, and whatever is repeated, the reader has the text."""
    answer = Answer(attempt=1)
    while len(answer.text) < len(text):
        at = data.draw(st.integers(0, len(answer.text)))
        end = data.draw(st.integers(at + 1, len(text)))
        answer.add(1, "text", at, text[at:end])
        assert text.startswith(answer.text)
    assert answer.text == text
    assert not answer.has_gap


def test_missing_piece_is_noticed() -> None:
    answer = Answer(attempt=1)
    answer.add(1, "text", 3, "def")
    assert answer.has_gap
    assert answer.text == ""
    answer.load(1, "abcdef", "")
    assert not answer.has_gap
    assert answer.text == "abcdef"


def test_new_attempt_cuts_what_it_will_write_again() -> None:
    answer = Answer(attempt=1, text="abcdef")
    answer.begin(2, 4, 0)
    answer.add(2, "text", 4, "EF")
    assert answer.text == "abcdEF"


def test_late_words_of_a_fenced_attempt_are_ignored() -> None:
    answer = Answer(attempt=2, text="abc")
    answer.begin(1, 0, 0)
    answer.add(1, "text", 3, "zombie")
    assert answer == Answer(attempt=2, text="abc")


def test_pieces_of_an_attempt_whose_begin_was_missed_ask_for_the_database() -> None:
    answer = Answer(attempt=1, text="abc")
    answer.add(2, "text", 3, "d")
    assert answer.has_gap
    assert answer.text == "abc"


def test_database_that_lags_behind_takes_nothing_away() -> None:
    answer = Answer(attempt=1, text="abcdef", reasoning="hm")
    answer.load(1, "abc", "")
    assert (answer.text, answer.reasoning) == ("abcdef", "hm")
