"""What all decoders share: how a stream ends, pieces that are not whole or too long, and nothing after a failure."""

from __future__ import annotations

import pytest

from backends.base import Kind
from backends.dialect.decoder import FramedDecoder
from backends.framing import ndjson


class Lines(FramedDecoder):
    """Passes lines on. The line `end` completes the stream; a line that begins with `?` is not whole."""

    piece = "a line"

    def __init__(self, limit: int = 100) -> None:
        super().__init__(ndjson.Framer(limit))

    def _event(self, piece: bytes) -> bytes:
        if self.over:
            return b""
        self.content += 1
        self.finished = self.finished or piece == b"end"
        return piece + b";"

    def _is_whole(self, piece: bytes) -> bool:
        return not piece.startswith(b"?")


@pytest.mark.parametrize(
    ("data", "out", "finished"),
    [
        (b"a\nend\n", b"a;end;", True),
        (b"a\nend", b"a;end;", True),
        (b"a\n?end", b"a;", False),
        (b"a\nb\n", b"a;b;", False),
        (b"", b"", False),
    ],
)
def test_the_end_of_a_stream(data: bytes, out: bytes, finished: bool) -> None:
    lines = Lines()
    assert lines.feed(data) + lines.close() == out
    assert lines.finished is finished
    assert (lines.failure is None) is finished
    assert lines.failure is None or lines.failure.kind is Kind.RESET


def test_a_piece_that_is_too_long() -> None:
    lines = Lines(limit=5)
    assert lines.feed(b"abc\nabcdef") == b"abc;"
    assert lines.failure is not None and lines.failure.kind is Kind.LIMIT
    assert lines.failure.message == "a line in the engine's stream is longer than 5 bytes"
    assert lines.feed(b"\nend\n") + lines.close() == b""
    assert not lines.finished
