"""The output and error file of one batch: append-only, one line for each request, however often it is resumed.

How a `kill -9` neither loses nor doubles a line:
- A request is done when its whole output line, line end included, is in one of the two files. Nothing else says so.
  The line begins with the number of its input line (`gateway.batches.lines`).
- Lines are appended whole and in one piece; the operating system keeps what a killed process has written. Once a
  second they are on the disk as well (`sync`), before the store hears how many there are.
- Whoever takes a batch up reads both files: it notes the numbers of whole lines, cuts off what is torn at the end
  (after a power cut perhaps more), and sends only the others. A request whose answer was not written yet is sent again;
  its first answer is nowhere.
- What the answers took is summed up from the same lines, so that it is told neither twice nor too little.
- Only the holder of the batch's lock file writes. The lock ends with the process that has it.

Nothing here is asynchronous. What touches the disk runs in threads, one call after the other; `add` and `take` are
called by the event loop, whenever that is.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gateway.batches.lines import number_of, usage

_FILE_MODE: Final = 0o600


class Lock:
    """The right to work on a batch, on this machine: a file that one process at a time has locked."""

    def __init__(self, path: Path) -> None:
        """Take it. Raises BlockingIOError where another process has it."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._file)
            raise

    def release(self, remove: bool = False) -> None:
        """Give it back; `remove`: nobody will want it any more."""
        if remove:
            self._path.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(self._file)


class Spent:
    """The tokens of many answers, as their engines counted them."""

    def __init__(self) -> None:
        """Start with none."""
        self.input = self.output = self.cached = self.reasoning = 0

    def add(self, line: bytes) -> None:
        """Add those of an output line."""
        found = usage(line)
        if found is not None:
            self.input += found.input
            self.output += found.output
            self.cached += found.cached or 0
            self.reasoning += found.reasoning or 0

    def shown(self) -> dict[str, Any]:
        """Return them as OpenAI's batches tell them."""
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.input + self.output,
        }


class _Appended:
    """One file that grows by whole lines."""

    def __init__(self, path: Path, total: int, seen: bytearray) -> None:
        """Open it, note in `seen` which of `total` requests it answers, and cut off what is torn or doubled."""
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        self.count = size = 0
        self.spent = Spent()
        with path.open("rb") as lines:
            for line in lines:
                number = number_of(line)
                if not 1 <= number <= total or seen[number]:
                    break
                seen[number] = 1
                self.count += 1
                self.spent.add(line)
                size += len(line)
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)

    def write(self, lines: list[bytes]) -> None:
        """Append whole lines. After an error nothing more may be written: the file is to be opened anew."""
        view = memoryview(b"".join(lines))
        while view:
            view = view[os.write(self._file, view) :]
        self.count += len(lines)
        for line in lines:
            self.spent.add(line)

    def sync(self) -> None:
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


class Results:
    """What a batch has answered so far. `total` is the number of the last line of its input."""

    def __init__(self, output: Path, errors: Path, total: int) -> None:
        """Open both files and find out which requests are done. Raises OSError."""
        self._done = bytearray(total + 1)
        self._good = _Appended(output, total, self._done)
        self._bad = _Appended(errors, total, self._done)
        self._added: tuple[list[bytes], list[bytes]] = ([], [])
        self.pending = 0
        """Bytes that were added and not yet taken."""

    @property
    def completed(self) -> int:
        """How many lines the output file has."""
        return self._good.count

    @property
    def spent(self) -> Spent:
        """The tokens of all answers in the output file."""
        return self._good.spent

    @property
    def failed(self) -> int:
        """How many lines the error file has."""
        return self._bad.count

    def is_done(self, number: int) -> bool:
        """Tell whether a line of the input has been answered."""
        return bool(self._done[number])

    def add(self, number: int, line: bytes, good: bool) -> None:
        """Have the answer to a line of the input be written next."""
        assert not self._done[number]
        self._done[number] = 1
        self.pending += len(line)
        self._added[0 if good else 1].append(line)

    def take(self) -> tuple[list[bytes], list[bytes]]:
        """Return what was added since the last call, for `write`."""
        taken, self._added, self.pending = self._added, ([], []), 0
        return taken

    def write(self, taken: tuple[list[bytes], list[bytes]]) -> None:
        """Append what was added. Raises OSError."""
        good, bad = taken
        if good:
            self._good.write(good)
        if bad:
            self._bad.write(bad)

    def sync(self) -> None:
        """Have everything that was written on the disk. Raises OSError."""
        self._good.sync()
        self._bad.sync()

    def close(self) -> None:
        """Close both files."""
        self._good.close()
        self._bad.close()
