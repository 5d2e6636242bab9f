"""However many lines a batch has, reading them holds a piece of the file, and a few bytes for each line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from gateway.batches.inputs import PIECE, Pieces, check
from gateway.batches.lines import answered
from gateway.batches.results import Results
from tests.batches.flow import CHAT, chat, jsonl, line

LINES, LENGTH = 4_000, 1 << 20
PER_LINE = 200
"""Bytes held for a line while ids are compared, at most: two numbers and their places in a set."""


def test_reading_and_answering_a_long_batch_holds_no_more_than_a_piece(tmp_path: Path) -> None:
    with (tmp_path / "in").open("wb") as file:
        for number in range(LINES):
            file.write(jsonl([line(f"n{number}", chat("x" * 4000))]))
    size = (tmp_path / "in").stat().st_size
    tracemalloc.start()
    try:
        assert check(tmp_path / "in", CHAT, LINES, LENGTH).requests == LINES
        results = Results(tmp_path / "out", tmp_path / "bad", LINES)
        pieces, sent = Pieces(tmp_path / "in", LENGTH, results.is_done), 0
        while piece := pieces.next():
            for number, _ in piece:
                results.add(number, answered("b", number, f"n{number}", 200, "r", b"{}"), True)
            results.write(results.take())
            sent += len(piece)
        results.close()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent == LINES
    assert most < 3 * PIECE + LINES * PER_LINE < size / 3
