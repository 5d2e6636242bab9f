"""What is held back of an answer: in order, and in no more memory than it has bytes."""

from __future__ import annotations

import tracemalloc

import pytest

from backends.base import Operation, Request
from gateway.wire.answer import SMALL_PARTS, Held, is_stream, may_be_stream

EVENTS = (b"text/event-stream", b"audio/")


@pytest.mark.parametrize("count", [0, 1, 2, SMALL_PARTS, SMALL_PARTS + 1, 5 * SMALL_PARTS + 7])
def test_what_is_held_is_given_back_in_order_and_once(count: int) -> None:
    held, parts = Held(), [b"%d," % number for number in range(count)]
    for part in parts:
        held.add(part)
    assert held.size == sum(map(len, parts))
    assert held.take() == b"".join(parts)
    assert (held.size, held.take()) == (0, b"")


def test_small_parts_take_as_much_memory_as_they_have_bytes() -> None:
    held = Held()
    tracemalloc.start()
    try:
        for number in range(200_000):
            held.add(b"%06d" % number)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.2 * held.size


def test_one_part_is_not_copied() -> None:
    held, part = Held(), b"x" * 1000
    held.add(part)
    assert held.take() is part


@pytest.mark.parametrize(
    ("kind", "streams"),
    [
        (b"text/event-stream", True),
        (b"Text/Event-Stream; charset=utf-8", True),
        (b"audio/mpeg", True),
        (b"text/plain", False),
        (b"", False),
    ],
)
def test_a_content_type_has_no_case(kind: bytes, streams: bool) -> None:
    assert is_stream(((b"date", b"x"), (b"content-type", kind)), EVENTS) is streams
    assert not is_stream((), EVENTS)


def test_a_whole_transcription_or_sound_may_begin_like_a_stream() -> None:
    for operation in Operation:
        sound = (Operation.TRANSCRIPTIONS, Operation.TRANSLATIONS, Operation.SPEECH)
        whole = operation not in (*sound, Operation.IMAGE_EDITS, Operation.IMAGE_VARIATIONS)
        assert may_be_stream(Request(operation, b"", "m")) is whole
        assert may_be_stream(Request(operation, b"", "m", stream=True))
