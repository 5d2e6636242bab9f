"""Input files of batches as people's programs write them: which lines are requests, and which mistakes they have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.batches.inputs import Pieces, check
from tests.batches.flow import CHAT, jsonl, line

LONGEST = 2000
A, B = (json.dumps(line(name)).encode() for name in "ab")


def filled(folder: Path, data: bytes) -> Path:
    file = folder / "in.jsonl"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    "data",
    [
        A + b"\n" + B + b"\n",
        A + b"\r\n" + B + b"\r\n",
        A + b"\n" + B,
        b"\xef\xbb\xbf" + A + b"\n" + B,
        b"\xef\xbb\xbf\r\n\n  \r\n" + A + b"\n\n\t\n" + B + b"\n\n",
        b" " + A + b" \n\x0b\x0c\n" + B + b"\r",
    ],
    ids=["plain", "CRLF", "no last line end", "byte order mark", "blank lines", "other white space"],
)
def test_each_line_is_a_request_however_its_file_is_written(data: bytes, tmp_path: Path) -> None:
    file = filled(tmp_path, data)
    found = check(file, CHAT, 10, LONGEST)
    assert (found.requests, found.model, found.mistakes) == (2, "m", ())
    piece = Pieces(file, LONGEST, lambda number: False).next()
    assert [json.loads(each)["custom_id"] for _, each in piece] == ["a", "b"]
    assert found.last == piece[-1][0]


def test_a_line_may_have_so_many_bytes_with_its_line_end(tmp_path: Path) -> None:
    for more, codes in ((0, []), (1, ["line_too_long"])):
        data = A + b" " * (LONGEST - len(A) - 1 + more) + b"\n" + B
        found = check(filled(tmp_path, data), CHAT, 10, LONGEST)
        assert [(each.code, each.line) for each in found.mistakes] == [(code, 1) for code in codes]


def test_a_request_behind_much_white_space_is_not_lost_without_a_word(tmp_path: Path) -> None:
    found = check(filled(tmp_path, b" " * (LONGEST * 2) + A + b"\n" + B), CHAT, 10, LONGEST)
    assert [(each.code, each.line) for each in found.mistakes] == [("line_too_long", 1)]


def test_a_mistake_in_the_first_line_is_the_only_one(tmp_path: Path) -> None:
    """The model of the batch is that of the first line that is one: the others are not told to have another."""
    rows = [b"{", *(line(f"n{number}") for number in range(5))]
    found = check(filled(tmp_path, jsonl(rows)), CHAT, 10, LONGEST)
    assert [(each.code, each.line) for each in found.mistakes] == [("invalid_json_line", 1)]
