"""Reading the input file of a batch: once to find every mistake in it, then in pieces for those who send its lines.

Rules:
- However long the file is, no more than a piece of it is held, and a number for each line while ids are compared.
- A file with a mistake is not begun: every line is sent, or none.
- As OpenAI's: one endpoint and one model for all lines, an id for each. Blank lines are no requests.
- A byte order mark before the first line, which editors on Windows write, is no part of it.

Nothing here is asynchronous: it runs in threads.
"""

from __future__ import annotations

from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import IO, Final, NamedTuple

from gateway.batches.lines import Line, Wrong, is_blank, read

MOST_MISTAKES: Final = 100
"""Mistakes that are told of one file."""
PIECE: Final = 512 << 10
"""Bytes of lines that are read at once, about."""


class Mistake(NamedTuple):
    """A mistake in an input file; `line` is None where no single line has it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Checked(NamedTuple):
    """What is known of an input file: its requests, the number of its last line, the model of all, its mistakes."""

    requests: int
    last: int
    model: str | None
    mistakes: tuple[Mistake, ...]


class _Check:
    """One file while it is looked through."""

    def __init__(self, endpoint: str, most: int, longest: int) -> None:
        self._endpoint = endpoint
        self._most = most
        self._longest = longest
        self.requests = self.last = 0
        self.model: str | None = None
        self.mistakes: list[Mistake] = []
        self._seen = array("Q")
        self._numbers = array("L")

    def take(self, number: int, data: bytes) -> None:
        """Look at one line."""
        self.last = number
        self.requests += 1
        if self.requests > self._most:
            return
        found: Line | Wrong = (
            Wrong("line_too_long", f"this line has more than {self._longest} bytes")
            if len(data) > self._longest
            else read(data)
        )
        if isinstance(found, Line):
            found = self._fitting(found)
        if isinstance(found, Wrong):
            self.mistakes.append(Mistake(found.code, found.message, number, found.param))
        else:
            self._seen.append(_digest(found.custom_id))
            self._numbers.append(number)

    def _fitting(self, line: Line) -> Line | Wrong:
        """Return a line that fits the others; else what is wrong with it."""
        if line.url != self._endpoint:
            return Wrong(
                "mismatched_endpoint", f"the batch is for {self._endpoint}, this line for {line.url}", "url"
            )
        if not self._seen:
            self.model = line.model
        if line.model != self.model:
            message = "all lines of a batch ask the same model, and this one asks another"
            return Wrong("mismatched_model", message, "body.model")
        return line

    def compare(self) -> None:
        """Find ids that are there twice."""
        if len(set(self._seen)) == len(self._seen):
            return
        first: dict[int, int] = {}
        for digest, number in zip(self._seen, self._numbers, strict=True):
            before = first.setdefault(digest, number)
            if before != number:
                message = f"line {before} has the same 'custom_id'"
                self.mistakes.append(Mistake("duplicate_custom_id", message, number, "custom_id"))


def check(path: Path, endpoint: str, most: int, longest: int) -> Checked:
    """Return what is known of an input file. Raises OSError.

    It may have `most` requests, each of at most `longest` bytes.
    """
    found = _Check(endpoint, most, longest)
    for number, data in _lines(path, longest):
        found.take(number, data)
    found.compare()
    mistakes = sorted(found.mistakes, key=lambda mistake: mistake.line or 0)
    if not found.requests:
        mistakes = [Mistake("empty_file", "the input file has no requests")]
    elif found.requests > most:
        message = f"the input file has {found.requests} requests; a batch may have {most}"
        mistakes = [Mistake("too_many_requests", message)]
    return Checked(found.requests, found.last, found.model, tuple(mistakes[:MOST_MISTAKES]))


def _digest(custom_id: str) -> int:
    return int.from_bytes(
        blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def skip_mark(file: IO[bytes]) -> None:
    """Begin to read a file behind its byte order mark, if it has one."""
    if file.read(len(BOM_UTF8)) != BOM_UTF8:
        file.seek(0)


def _lines(path: Path, longest: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number of each line that is not blank, from 1, and the line; of one too long a beginning too long."""
    with path.open("rb") as file:
        skip_mark(file)
        number = 0
        while data := file.readline(longest + 1):
            number += 1
            is_long = len(data) > longest and not data.endswith(b"\n")
            while is_long and (more := file.readline(PIECE)):
                if more.endswith(b"\n"):
                    break
            # Of one too long only a beginning was looked at: it is no blank line, whatever that is.
            if is_long or not is_blank(data):
                yield number, data


class Pieces:
    """The lines of an input file that are not done yet, piece by piece."""

    def __init__(self, path: Path, longest: int, is_done: Callable[[int], bool]) -> None:
        self._lines = _lines(path, longest)
        self._is_done = is_done

    def next(self) -> list[tuple[int, bytes]]:
        """Return the next lines with their numbers; none at the end. Raises OSError."""
        piece, size = list[tuple[int, bytes]](), 0
        for number, data in self._lines:
            if not self._is_done(number):
                piece.append((number, data))
                size += len(data)
                if size >= PIECE:
                    break
        return piece
