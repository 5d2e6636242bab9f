"""The SSE framer: every way of writing events, cut at every byte, compared with reading the whole text at once."""

import re
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.framing import limit as limits
from backends.framing import ndjson, sse


def read(pieces: Iterable[bytes], limit: int = limits.EVENT) -> tuple[list[bytes], bool]:
    """Return the events in the pieces, and whether one was too long."""
    framer = sse.Framer(limit)
    events = [event for piece in pieces for event in framer.feed(piece)]
    events += framer.close()
    return events, framer.too_long


def cuts(text: bytes) -> Iterator[list[bytes]]:
    """Yield the text as a whole, cut in two at every position, and byte by byte."""
    yield [text]
    yield from ([text[:place], text[place:]] for place in range(len(text) + 1))
    yield [text[place : place + 1] for place in range(len(text))]


def reference(text: bytes) -> list[bytes]:
    """Apply the standard's algorithm to the whole text; a last event needs no blank line."""
    events: list[bytes] = []
    data: list[bytes] = []
    for line in [*re.split(rb"\r\n|\n|\r", text.removeprefix(b"\xef\xbb\xbf")), b""]:
        field, _, value = line.partition(b":")
        if not line and data:
            events.append(b"\n".join(data))
            data = []
        elif field == b"data":
            data.append(value.removeprefix(b" "))
    return events


EVENTS = {
    "LF": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "CR": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "mixed": (b"data: a\r\n\ndata: b\r\n\rdata: c\n\r\ndata: d\r\r\n", [b"a", b"b", b"c", b"d"]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "a second mark is no mark": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [b"b"]),
    "half a mark": (b"\xef\xbbdata: a\n\ndata: b\n\n", [b"b"]),
    "only half a mark": (b"\xef\xbb", []),
    "comments": (b": ping\n\n:\n\n:data: x\n\n: keep-alive\ndata: a\n: more\n\n", [b"a"]),
    "several data lines": (b"data: a\ndata: b\ndata:\ndata: c\n\n", [b"a\nb\n\nc"]),
    "several data lines, CRLF": (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    "CR inside what looks like one event": (b": x\n\ndata: a\rdata: b\n\n", [b"a\nb"]),
    "LF inside what looks like one event": (b": x\n\ndata: a\ndata: b\n\n", [b"a\nb"]),
    "no space": (b'data:{"a":1}\n\n', [b'{"a":1}']),
    "two spaces, one is the field's": (b"data:  a \n\n", [b" a "]),
    "data alone": (b"data\n\ndata\ndata: a\n\n", [b"", b"\na"]),
    "data without value": (b"data:\n\ndata: \n\n", [b"", b""]),
    "other fields": (
        b"event: x\nid: 1\nretry: 5\nnonsense\ndatum: 1\nDATA: 2\n data: 3\ndata: a\n\n",
        [b"a"],
    ),
    "no data": (b"event: x\nid: 1\n\n\n\n", []),
    "colons in the value": (b"data: a: b:c\n\n", [b"a: b:c"]),
    "line separators of Unicode": ("data: a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n\n".encode(), []),
    "no blank line at the end": (b"data: a\n\ndata: b", [b"a", b"b"]),
    "half a blank line at the end": (b"data: a\n\ndata: b\n", [b"a", b"b"]),
    "CR at the end": (b"data: a\r", [b"a"]),
    "a field cut off": (b"data: a\n\ndat", [b"a"]),
    "many blank lines": (b"\n\n\r\n\rdata: a\n\n\n\n\n", [b"a"]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize(("text", "events"), EVENTS.values(), ids=EVENTS.keys())
def test_events_however_they_are_written_and_cut(text: bytes, events: list[bytes]) -> None:
    expected = events or reference(text)
    for pieces in cuts(text):
        assert read(pieces) == (expected, False), pieces


def test_what_unicode_calls_a_line_break_stays_inside_an_event() -> None:
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"
    assert read([sse.encode(text.encode())]) == ([text.encode()], False)


TOKENS = st.sampled_from(
    [b"data", b"data:", b"data: ", b": ", b":", b"id: 1", b"x", b"{}", b"\xe2\x80\xa8", b"\xef\xbb\xbf"]
    + [b"\n", b"\r", b"\r\n", b"\n\n"] * 2
)


@given(st.lists(TOKENS, max_size=30).map(b"".join), st.data())
def test_any_cut_reads_as_the_whole(text: bytes, data: st.DataObject) -> None:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    expected = (reference(text), False)
    assert read([text]) == expected
    assert read(pieces) == expected
    assert read(text[place : place + 1] for place in range(len(text))) == expected


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_given_with_its_blank_line(end: bytes) -> None:
    framer = sse.Framer()
    assert framer.feed(b"data: a" + end) == []
    assert framer.feed(end) == [b"a"]


def test_idle_is_between_two_events() -> None:
    framer = sse.Framer()
    seen = [framer.idle]
    for piece in (b"data: a\n\n", b"data: b", b"\n", b"\n", b": x\n", b"\n", b"id: 1\r\n", b"\r", b"\n"):
        framer.feed(piece)
        seen.append(framer.idle)
    assert seen == [False, True, False, False, True, False, True, False, False, True]


TOO_LONG = {
    "one line": b"data: " + b"x" * 100 + b"\n\n",
    "a line that never ends": b"data: " + b"x" * 100,
    "many short lines": b"data: xx\n" * 20 + b"\n",
    "lines of nothing": b"data\n" * 20 + b"\n",
    "a comment": b":" + b"x" * 100 + b"\n\n",
    "an unknown field": b"x" * 100,
}


@pytest.mark.parametrize("text", TOO_LONG.values(), ids=TOO_LONG.keys())
def test_past_an_event_beyond_the_limit_nothing_is_read(text: bytes) -> None:
    for pieces in cuts(b"data: before\n\n" + text + b"\n\ndata: after\n\n"):
        assert read(pieces, limit=64) == ([b"before"], True), pieces


def test_the_limit_is_exact() -> None:
    line = b"data: " + b"x" * 57
    for pieces in cuts(line + b"\n\n" + b": ping\n\n" * 20 + line + b"\n\n"):
        assert read(pieces, limit=64) == ([b"x" * 57, b"x" * 57], False), pieces
    for pieces in cuts(line + b"x\n\n"):
        assert read(pieces, limit=64) == ([], True), pieces


@pytest.mark.parametrize(("size", "too_long"), [(57, False), (58, True)])
def test_the_limit_holds_for_an_event_that_comes_whole(size: int, too_long: bool) -> None:
    framer = sse.Framer(limit=64)
    assert framer.feed(b": x\n\n") == []
    assert framer.idle
    assert framer.feed(sse.encode(b"x" * size)) == ([] if too_long else [b"x" * size])
    assert framer.too_long is too_long


def test_an_event_is_too_long_before_it_ends() -> None:
    framer = sse.Framer(limit=64)
    framer.feed(b"data: " + b"x" * 40 + b"\n")
    assert not framer.too_long
    framer.feed(b"data: " + b"x" * 20)
    assert framer.too_long


def test_nothing_is_held_beyond_the_limit() -> None:
    framer = sse.Framer(limit=1000)
    for _ in range(10_000):
        assert framer.feed(b"data:\n") == []
    assert framer.too_long
    assert framer.close() == []
    held = [getattr(framer, name) for name in dir(framer)]
    assert sum(len(value) for value in held if isinstance(value, bytes | bytearray | list)) == 0


def test_a_long_stream_of_short_events_never_adds_up() -> None:
    framer = sse.Framer(limit=64)
    for number in range(1000):
        assert framer.feed(b"id: %d\n" % number) == []
        assert framer.feed(b"data: x\n\n") == [b"x"]
    assert not framer.too_long


def test_encode_is_the_inverse() -> None:
    assert read([sse.encode(b'{"a": 1}')]) == ([b'{"a": 1}'], False)


ERRORS = {
    "an event named error": (b'event: error\ndata: {"m":1}\n\n', b'{"m":1}'),
    "the name after the data": (b"data: a\ndata: b\nevent: error\n\n", b"a\nb"),
    "without a space": (b"event:error\ndata:a\n\n", b"a"),
    "without data": (b"event: error\n\n", b""),
    "a field": (b'error: {"m":1}\n\n', b'{"m":1}'),
    "CRLF": (b"event: error\r\ndata: a\r\n\r\n", b"a"),
    "no blank line at the end": (b"event: error\ndata: a", b"a"),
}


@pytest.mark.parametrize(("text", "error"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_by_its_frame_is_told_apart_and_nothing_is_read_after_it(text: bytes, error: bytes) -> None:
    after = b"data: after\n\n" if text.endswith(b"\n") else b""
    for pieces in cuts(b"data: before\n\n" + text + after):
        framer = sse.Framer()
        events = [event for piece in pieces for event in framer.feed(piece)] + framer.close()
        assert (events, framer.error) == ([b"before"], error), pieces
        assert framer.feed(b"data: late\n\n") == []
    block = text.replace(b"\r\n", b"\n").strip(b"\n")
    assert sse.error_of(block) == error


@pytest.mark.parametrize(
    "block", [b"event: message\ndata: a", b'data: {"error":1}', b"event: errors\ndata: a", b": error: x"]
)
def test_other_events_are_no_errors(block: bytes) -> None:
    framer = sse.Framer()
    framer.feed(block + b"\n\n")
    assert framer.error is None and sse.error_of(block) is None


@pytest.mark.parametrize("kind", [sse.Framer, sse.Blocks])
def test_an_event_grows_until_it_ends_and_a_comment_never_does(kind: type[sse.Framer | sse.Blocks]) -> None:
    framer = kind()
    seen = []
    for piece in (b"data: a", b"b\n", b"\n", b": pi", b"ng", b"\n\n", b"data: c\n\n", b"da", b"ta: d\n\n"):
        framer.feed(piece)
        seen.append(framer.growing)
    assert seen == [True, True, False, False, False, False, False, True, False]


@pytest.mark.timeout(240)  # half a million pieces, each seen by tracemalloc
@pytest.mark.parametrize("size", [2, 1024])
@pytest.mark.parametrize("kind", [sse.Framer, sse.Blocks, ndjson.Framer])
def test_an_event_in_many_pieces_costs_its_bytes(
    kind: type[sse.Framer | sse.Blocks | ndjson.Framer], size: int
) -> None:
    """A megabyte in pieces of two bytes: copying what is held for each would move hundreds of gigabytes."""
    framer, piece = kind(), b"x" * size
    framer.feed(b"data: ")
    tracemalloc.start()
    try:
        for _ in range((1 << 20) // size):
            framer.feed(piece)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 << 20
    [event] = framer.feed(b"\n\n")
    assert len(event) >= 1 << 20


def test_an_event_of_many_lines_takes_as_much_memory_as_it_has_bytes() -> None:
    framer = sse.Framer()
    lines = b"data: xy\n" * 10_000
    tracemalloc.start()
    try:
        for _ in range(20):
            framer.feed(lines)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 20
    assert framer.feed(b"\n") == [b"\n".join([b"xy"] * 200_000)]


@pytest.mark.parametrize(
    ("text", "streams"),
    [
        (b'data: {"a":1}\n\n', True),
        (b"event: x\ndata: y\n\n", True),
        (b": ping\n\n", True),
        (b"id: 1\n", True),
        (b"\r\n\ndata:x", True),
        (b"\xef\xbb\xbfdata: x", True),
        (b"error: x", True),
        (b'{"choices":[]}', False),
        (b"<html>", False),
        (b"dates: a list", False),
        (b"hello", False),
        (b"\n" * 100, False),
        (b"", None),
        (b"dat", None),
        (b"\xef\xbb", None),
        (b"\n\n", None),
    ],
)
def test_a_stream_is_recognised_by_its_first_bytes(text: bytes, streams: bool | None) -> None:
    assert sse.is_stream(text) is streams
    if streams is not None:
        assert all(sse.is_stream(text[:place]) in (None, streams) for place in range(len(text)))
