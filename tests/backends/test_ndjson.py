"""The framer of newline-delimited JSON: cut at every byte, compared with reading the whole text at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.framing import limit as limits
from backends.framing import ndjson


def read(pieces: Iterable[bytes], limit: int = limits.EVENT) -> tuple[list[bytes], bool]:
    """Return the lines in the pieces, and whether one was too long."""
    framer = ndjson.Framer(limit)
    lines = [line for piece in pieces for line in framer.feed(piece)]
    lines += framer.close()
    return lines, framer.too_long


def cuts(text: bytes) -> Iterator[list[bytes]]:
    """Yield the text as a whole, cut in two at every position, and byte by byte."""
    yield [text]
    yield from ([text[:place], text[place:]] for place in range(len(text) + 1))
    yield [text[place : place + 1] for place in range(len(text))]


def reference(text: bytes) -> list[bytes]:
    """Return the lines of the whole text, by the simplest implementation."""
    return [line.strip() for line in text.split(b"\n") if line.strip()]


LINES = {
    "LF": (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    "CRLF": (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
    "no end": (b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
    "CR at the end": (b'{"a":1}\r', [b'{"a":1}']),
    "blank lines": (b'\n\r\n \t\n{"a":1}\n\n\n', [b'{"a":1}']),
    "white space around": (b'  {"a":1} \n', [b'{"a":1}']),
    "white space inside": (b'{"a" : "x y"}\n', [b'{"a" : "x y"}']),
    "a CR inside": (b'{"a":\r1}\n', [b'{"a":\r1}']),
    "line separators of Unicode": ('"a\u2028b\u0085c"\n'.encode(), ['"a\u2028b\u0085c"'.encode()]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize(("text", "lines"), LINES.values(), ids=LINES.keys())
def test_lines_however_they_are_written_and_cut(text: bytes, lines: list[bytes]) -> None:
    for pieces in cuts(text):
        assert read(pieces) == (lines, False), pieces


TOKENS = st.sampled_from([b"{}", b'{"a":"\xe2\x80\xa8"}', b"x", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\n\n"])


@given(st.lists(TOKENS, max_size=30).map(b"".join), st.data())
def test_any_cut_reads_as_the_whole(text: bytes, data: st.DataObject) -> None:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    expected = (reference(text), False)
    assert read([text]) == expected
    assert read(pieces) == expected
    assert read(text[place : place + 1] for place in range(len(text))) == expected


PIECES = st.sampled_from([b"\n", b"\r\n", b"x", b"x" * 7, b" "])


@given(st.lists(PIECES, max_size=30).map(b"".join), st.integers(2, 40), st.data())
def test_where_a_line_is_too_long_does_not_depend_on_the_cut(
    text: bytes, limit: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(text)))
    assert read([text[:place], text[place:]], limit) == read([text], limit)
    assert read((text[at : at + 1] for at in range(len(text))), limit) == read([text], limit)


def test_a_line_is_given_with_its_line_feed() -> None:
    framer = ndjson.Framer()
    assert framer.feed(b'{"a":1}') == []
    assert framer.feed(b"\n") == [b'{"a":1}']


def test_idle_is_between_two_lines() -> None:
    framer = ndjson.Framer()
    seen = [framer.idle]
    for piece in (b"{}\n", b"{", b"", b"}", b"\n", b"{}\n{", b"}\n"):
        framer.feed(piece)
        seen.append(framer.idle)
    assert seen == [True, True, False, False, False, True, False, True]


@pytest.mark.parametrize("tail", [b"\n", b"", b"\n{}\n"])
def test_past_a_line_beyond_the_limit_nothing_is_read(tail: bytes) -> None:
    for pieces in cuts(b"before\n" + b"x" * 100 + tail):
        assert read(pieces, limit=64) == ([b"before"], True), pieces


def test_the_limit_is_exact() -> None:
    """The line feed counts."""
    for pieces in cuts((b"x" * 63 + b"\n") * 3):
        assert read(pieces, limit=64) == ([b"x" * 63] * 3, False), pieces
    for pieces in cuts(b"x" * 64 + b"\n"):
        assert read(pieces, limit=64) == ([], True), pieces


def test_nothing_is_held_beyond_the_limit() -> None:
    framer = ndjson.Framer(limit=1000)
    for _ in range(10_000):
        assert framer.feed(b"xx") == []
    assert framer.too_long
    assert framer.close() == []
    held = [getattr(framer, name) for name in dir(framer)]
    assert sum(len(value) for value in held if isinstance(value, bytearray)) == 0


def test_a_long_stream_of_short_lines_never_adds_up() -> None:
    framer = ndjson.Framer(limit=64)
    for _ in range(1000):
        assert framer.feed(b"{") == []
        assert framer.feed(b"}\n") == [b"{}"]
    assert not framer.too_long
