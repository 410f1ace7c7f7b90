"""Frames of a model's stream, however the network cuts them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiia_serving.gateway.assemble import Assembler
from aiia_serving.gateway.errors import ApiError
from aiia_serving.gateway.sse import FrameBuffer, data_of, has_error, is_done, split_error, take_usage
from aiia_serving.gateway.upstream import UpstreamLostError

pytestmark = pytest.mark.unit

STREAM = 'data: {"text": "é 🙂"}\n\n: comment\n\ndata: {"x": "\\"error\\""}\n\ndata: [DONE]\n\n'.encode()


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=8))
def test_only_whole_frames_come_out_and_nothing_is_lost(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    buffer = FrameBuffer()
    out = [buffer.feed(STREAM[start:end]) for start, end in pairwise(edges)]
    assert b"".join(out) == STREAM
    assert all(part == b"" or part.endswith(b"\n\n") for part in out)


def test_carriage_returns_end_frames_too() -> None:
    buffer = FrameBuffer()
    assert buffer.feed(b"data: 1\r\n\r\ndata: 2\r") == b"data: 1\n\n"
    assert buffer.feed(b"\n\r\n") == b"data: 2\n\n"


def test_the_end_mark_and_errors_are_seen() -> None:
    assert is_done(STREAM)
    assert not is_done(STREAM[:-10])
    assert not has_error(STREAM)
    broken = b'data: {"error": {"message": "x"}}\n\ndata: [DONE]\n\n'
    assert has_error(broken)
    assert split_error(STREAM + broken) == (STREAM, {"message": "x"})
    assert split_error(b"data: 1\n\nevent: error\n" + broken) == (b"data: 1\n\n", {"message": "x"})


def test_the_space_after_the_colon_is_the_servers_choice() -> None:
    assert is_done(b'data:{"x": 1}\n\ndata:[DONE]\n\n')
    assert has_error(b'data:{"error": {}}\n\n')
    assert split_error(b'data:1\n\ndata:{"error": "x"}\n\n') == (b"data:1\n\n", "x")


def test_usage_is_taken_from_frames_with_names_too() -> None:
    last = b'event: message\ndata: {"choices": [], "usage": {"total_tokens": 3}}\n\n'
    assert take_usage(b"data: 1\n\n" + last, keep=False) == (b"data: 1\n\n", {"total_tokens": 3})


def test_data_of_frames() -> None:
    assert data_of(STREAM)[-1] == b"[DONE]"
    assert len(data_of(STREAM)) == 3


def test_tool_calls_are_put_together_by_index() -> None:
    assembler = Assembler(chat=True)
    for part in (
        '{"index":0,"id":"a","type":"function","function":{"name":"look","arguments":""}}',
        '{"index":0,"function":{"arguments":"{\\"q\\":"}}',
        '{"index":1,"id":"b","function":{"name":"see","arguments":"{}"}}',
        '{"index":0,"function":{"arguments":"1}"}}',
    ):
        assembler.feed(b'{"choices":[{"index":0,"delta":{"tool_calls":[%b]}}]}' % part.encode())
    calls = assembler.result()["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]) for call in calls] == [
        ("a", {"name": "look", "arguments": '{"q":1}'}),
        ("b", {"name": "see", "arguments": "{}"}),
    ]


def test_a_models_error_ends_the_assembly() -> None:
    with pytest.raises(UpstreamLostError) as lost:
        Assembler(chat=True).feed(b'{"error": {"message": "out of memory", "code": 500}}')
    assert lost.value.said is not None
    assert lost.value.said.status == 502
    with pytest.raises(ApiError) as refused:
        Assembler(chat=True).feed(b'{"error": {"message": "too long", "code": 400}}')
    assert refused.value.status == 400
