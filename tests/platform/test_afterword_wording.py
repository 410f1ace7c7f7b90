"""What of a model's reply is shown, and what is left out."""

import json

import pytest

from aiia_platform.afterwords.wording import EXCERPT, read, request

pytestmark = pytest.mark.unit


def title(text: object) -> str:
    return read(json.dumps({"title": text}), "").title


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Three Days in Rome", "Three Days in Rome"),
        ("“Three Days in Rome”.", "Three Days in Rome"),
        ("**Rome**", "Rome"),
        ("ローマの三日間", "ローマの三日間"),
        ("Title case in German", "Title case in German"),
    ],
)
def test_titles_lose_their_quotes(said: str, shown: str) -> None:
    assert title(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "",
        " ",
        "?!",
        "A\nB",
        "x" * 61,
        "the the the the",
        "aaaaaaaaaa",
        "title",
        "Chat title",
        "{title}",
        "<script>alert(1)</script>",
        "See https://example.org",
        "a\u2028b",
        "a\0b",
        7,
        None,
        ["Rome"],
        {"title": "Rome"},
    ],
)
def test_rubbish_is_no_title(said: object) -> None:
    assert title(said) == ""


@pytest.mark.parametrize(
    "reply",
    [
        '{"title": "Rome"}',
        'Sure! Here it is:\n```json\n{"title": "Rome"}\n```\nAnything else?',
        '<think>{"a": 1} or so</think>{"title": "Rome"}',
        '{"title": "Rome"} {"title": "Paris"}',
    ],
)
def test_the_object_is_found_whatever_stands_around_it(reply: str) -> None:
    assert read(reply, "").title == "Rome"


@pytest.mark.parametrize("reply", ["", "Rome", "{", '{"title": "Ro', "[]", '["title"]', "{" * 5000, '{"name": "Rome"}'])
def test_a_reply_without_one_says_nothing(reply: str) -> None:
    found = read(reply, "")
    assert (found.title, found.tags, found.follow_ups) == ("", [], [])


def test_tags_are_few_short_and_distinct() -> None:
    said = ["Rome", "rome", "#travel", "a very long topic indeed", "x", 3, "italy", "food"]
    assert read(json.dumps({"tags": said}), "").tags == ["rome", "travel", "italy"]
    assert read(json.dumps({"tags": "rome"}), "").tags == []


def test_follow_ups_are_questions_other_than_the_one_that_was_asked() -> None:
    def follow_ups(*said: object) -> list[str]:
        return read(json.dumps({"questions": said}), "What is time?").follow_ups

    asked = ["1. Who measured it first?", "时间从哪里开始？真的吗？", "What is time?", "Is it real?", "Can it end?"]  # noqa: RUF001
    assert follow_ups(*asked) == ["Who measured it first?", "时间从哪里开始？真的吗？", "Is it real?"]  # noqa: RUF001
    assert follow_ups("Is it real?", "Yes.", "What is time?") == []
    assert follow_ups("Why " * 20 + "?", "Is\nit?", "Is it real?") == []


def test_a_short_model_reads_a_quarter_of_its_length() -> None:
    wants = ["titles", "tags", "follow_ups"]
    text = request(wants, "q" * 9000, "a" * 9000, length=2048, structured=False)["messages"][0]["content"]
    assert len(text) < 2048 + 600
    assert (
        len(request(wants, "q" * 9000, "a" * 9000, length=None, structured=False)["messages"][0]["content"]) > EXCERPT
    )


def test_a_model_that_can_is_held_to_a_schema() -> None:
    body = request(["tags"], "q", "a", length=None, structured=True)
    assert list(body["response_format"]["json_schema"]["schema"]["properties"]) == ["tags"]
    assert "response_format" not in request(["tags"], "q", "a", length=None, structured=False)
