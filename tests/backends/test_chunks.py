"""Writing OpenAI's stream for engines with another protocol, and cutting text at stop strings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Operation, Request, Usage
from backends.dialect.chunks import Chunks, Stamp, StopCutter, fresh_id, stamp


def events(data: bytes) -> list[Any]:
    return [json.loads(event.removeprefix(b"data: ")) for event in data.split(b"\n\n") if event]


def writer(operation: Operation) -> Chunks:
    return Chunks(Request(operation, b"{}", 'a "model"', stream=True), Stamp("id-1", 7))


def test_a_chat() -> None:
    chunks = writer(Operation.CHAT)
    said = chunks.text(0, 'He said "hi"') + chunks.text(0, "\n") + chunks.finish(0, "stop")
    head = {"id": "id-1", "object": "chat.completion.chunk", "created": 7, "model": 'a "model"'}
    deltas = [{"role": "assistant", "content": 'He said "hi"'}, {"content": "\n"}, {}]
    assert events(said) == [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        for delta, reason in zip(deltas, (None, None, "stop"), strict=True)
    ]


def test_each_choice_has_its_role_once() -> None:
    chunks = writer(Operation.CHAT)
    said = events(
        chunks.text(1, "b") + chunks.text(0, "a") + chunks.text(1, "B") + chunks.finish(2, "length")
    )
    assert ["role" in event["choices"][0]["delta"] for event in said] == [True, True, False, True]


def test_a_completion() -> None:
    chunks = writer(Operation.COMPLETIONS)
    first, last, counts = events(chunks.text(0, "x") + chunks.finish(0, "length") + chunks.usage(Usage(3, 2)))
    assert first["object"] == "text_completion" and first["choices"][0]["text"] == "x"
    assert last["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
    assert counts["choices"] == []
    assert counts["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert events(chunks.usage(None))[0]["usage"] is None


def test_stamps_differ() -> None:
    assert stamp(Operation.CHAT).id.startswith("chatcmpl-")
    assert stamp(Operation.COMPLETIONS).id.startswith("cmpl-")
    assert fresh_id("call") != fresh_id("call")


@pytest.mark.parametrize(
    ("stops", "pieces", "whole", "hit"),
    [
        ((), ["a", "b"], "ab", False),
        (("b",), ["a", "b", "c"], "a", True),
        (("end",), ["the e", "nd of it"], "the ", True),
        (("end",), ["the e", "nergy"], "the energy", False),
        (("end",), ["en", "en", "d"], "en", True),
        (("aab",), ["aa", "ab"], "a", True),
        (("xy", "y"), ["x", "y"], "", True),
        (("",), ["a"], "a", False),
    ],
)
def test_stop_strings(stops: tuple[str, ...], pieces: list[str], whole: str, hit: bool) -> None:
    cutter = StopCutter(stops)
    assert "".join([*map(cutter.feed, pieces), cutter.close()]) == whole
    assert cutter.hit is hit


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_any_pieces_are_cut_like_the_whole(pieces: list[str], stops: list[str]) -> None:
    cutter = StopCutter(stops)
    text = "".join(pieces)
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    assert "".join([*map(cutter.feed, pieces), cutter.close()]) == text[: min(ends, default=len(text))]
