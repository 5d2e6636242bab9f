"""Token counts: the names of every API, unreadable counts, and answers with two kinds of names."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Usage
from backends.dialect.usage import count, merged, openai_usage, usage_of, usage_of_digits

CHAT = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
NEWER = {"input_tokens": 5, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
ANTHROPIC = {
    "input_tokens": 1,
    "output_tokens": 3,
    "cache_read_input_tokens": 2,
    "cache_creation_input_tokens": 4,
}


@pytest.mark.parametrize(
    ("said", "chat", "any_api"),
    [
        (CHAT, Usage(5, 3), Usage(5, 3)),
        (CHAT | {"prompt_tokens_details": {"cached_tokens": 4}}, Usage(5, 3, 4), Usage(5, 3, 4)),
        ({"prompt_tokens": 5}, Usage(5, 0), Usage(5, 0)),
        (NEWER, None, Usage(5, 3, 2)),
        (ANTHROPIC, None, Usage(7, 3, 2, 4)),
        ({"total_tokens": 9}, None, Usage(9, 0)),
        ({"prompt_tokens": -5, "completion_tokens": 3.5}, Usage(0, 0), Usage(0, 0)),
        ({"prompt_tokens": True, "completion_tokens": "3"}, None, None),
        ({"prompt_tokens": 5, "prompt_tokens_details": [1]}, Usage(5, 0), Usage(5, 0)),
        ({}, None, None),
        (None, None, None),
        ([CHAT], None, None),
    ],
    ids=repr,
)
def test_counts_by_their_names(said: Any, chat: Usage | None, any_api: Usage | None) -> None:
    assert usage_of(said) == chat
    assert usage_of(said, any_api=True) == any_api


def test_cached_tokens_are_counted_once_where_both_kinds_of_names_stand() -> None:
    """Some proxies answer chats so: OpenAI's prompt tokens include what Anthropic's names count separately."""
    both = CHAT | {"prompt_tokens_details": {"cached_tokens": 2}, "cache_read_input_tokens": 2}
    assert usage_of(both) == Usage(5, 3, 2)


@pytest.mark.parametrize(
    ("read", "made", "usage"),
    [(b"7", b"3", Usage(7, 3)), (b"0", b"0", None), (b"", b"3", Usage(0, 3)), (b"-1", b'"9"', None)],
)
def test_counts_outside_of_usage(read: bytes, made: bytes, usage: Usage | None) -> None:
    assert usage_of_digits(read, made) == usage


def test_a_count_is_a_whole_number_above_zero() -> None:
    assert [count(value) for value in (3, 0, -1, 2.0, "2", True, None)] == [3, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("said", "timings", "usage"),
    [
        (CHAT, None, Usage(5, 3)),
        (CHAT | {"prompt_tokens_details": {"cached_tokens": 0}}, None, Usage(5, 3, cached=0)),
        (CHAT | {"prompt_tokens_details": {"cached_tokens": None}}, None, Usage(5, 3)),
        (CHAT | {"completion_tokens_details": {"reasoning_tokens": 2}}, None, Usage(5, 3, reasoning=2)),
        (CHAT | {"reasoning_tokens": 2}, None, Usage(5, 3, reasoning=2)),
        (CHAT | {"prompt_cache_hit_tokens": 4}, None, Usage(5, 3, cached=4)),
        (CHAT | {"prompt_tokens_details": {"created_cache_tokens": 4}}, None, Usage(5, 3, cache_write=4)),
        (
            CHAT
            | {
                "completion_tokens_details": {
                    "accepted_prediction_tokens": 2,
                    "rejected_prediction_tokens": 7,
                }
            },
            None,
            Usage(5, 3, drafted=9, accepted=2),
        ),
        (CHAT, {"cache_n": 1, "draft_n": 9, "draft_n_accepted": 2}, Usage(5, 3, 1, None, None, 9, 2)),
        (CHAT, {"cache_n": 0, "prompt_n": 5}, Usage(5, 3, cached=0)),
        (CHAT, {"cache_n": -1, "draft_n": "9"}, Usage(5, 3)),
    ],
    ids=repr,
)
def test_details_mean_the_same_whoever_tells_them(said: Any, timings: Any, usage: Usage) -> None:
    """And what is not told is not zero."""
    assert usage_of(said, timings=timings) == usage


def test_counts_of_one_answer_are_put_together_and_the_later_one_is_right() -> None:
    first = usage_of({"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": 4}, any_api=True)
    last = usage_of({"output_tokens": 9}, any_api=True)
    assert first is not None and last is not None
    assert merged(first, last) == Usage(5, 9, 4)
    assert merged(None, last) == last


def test_what_is_written_is_read_again() -> None:
    assert usage_of(openai_usage(Usage(5, 3))) == Usage(5, 3)
