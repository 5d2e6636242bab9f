"""Lines for a terminal, a file or a pipe that may be read slowly or not at all.

Rules:
- Whoever has something to say never waits: a thread writes. What it has not written yet is bounded.
- Beyond the bound lines are dropped, and the next line that is written says how many.
- What is written at once ends with a line, so that several processes may append to one file.
- The thread writes to the file descriptor, not to Python's stream: a thread that is stuck in a stream when the process
  ends would hold the stream's lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

ROOM: Final = 4 << 20
"""Most bytes that wait to be written."""
PATIENCE: Final = 1.0
"""Seconds that the end of the process waits for what is still to be written."""
_AT_ONCE: Final = 4096
"""Bytes that are written at once: as many as a pipe takes whole."""
_FULL: Final = 0.05
"""Seconds between two attempts to write where the descriptor does not block."""


def dropped(count: int) -> str:
    """Return the words that stand for lines which were dropped."""
    return f"{count} lines were dropped here: nobody read them in time"


class Outlet:
    """Writes lines to a stream from a thread of its own, which starts with the first line."""

    def __init__(
        self,
        stream: TextIO,
        notice: Callable[[int], str] = dropped,
        room: int = ROOM,
        before: Callable[[int], None] | None = None,
        gather: float = 0.0,
    ) -> None:
        """Write to `stream`.

        `notice` returns the line that tells how many were dropped; `room` is in bytes. `before` is called by the
        thread with the file descriptor each time there is something to write. `gather` is for how many seconds lines
        are collected before they are written together: waking the thread for each costs more than making it.
        """
        self._stream = stream
        self._notice = notice
        self._room = room
        self._before = before
        self._gather = gather
        self._hurry = threading.Event()
        self._closed = False
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._writing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        try:
            self._file: int | None = stream.fileno()
        except OSError:
            self._file = None

    def put(self, line: str) -> None:
        """Write a line soon, or drop it where too much waits already."""
        if self._file is None:
            # A stream in memory, which cannot block.
            self._stream.write(line + "\n")
            return
        data = line.encode(self._stream.encoding or "utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if self._size + len(data) > self._room:
                self._dropped += 1
                return
            self._lines.append(data)
            self._size += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)
                self._thread.start()
            if len(self._lines) == 1:
                self._changed.notify_all()
            if self._size > self._room // 2:
                self._hurry.set()

    def leave_out(self) -> None:
        """Count a line that is not to be written, as one that was dropped."""
        with self._changed:
            self._dropped += 1

    def flush(self, patience: float = PATIENCE) -> None:
        """Wait until everything is written, at most `patience` seconds; how many lines were dropped is written too."""
        with self._changed:
            if self._dropped and self._thread is not None:
                self._lines.append(b"")
                self._changed.notify_all()
            self._hurry.set()
            self._changed.wait_for(lambda: not (self._lines or self._writing), patience)

    def close(self) -> None:
        """Close the stream as soon as everything is written. Nobody waits for that, and nothing may be put after it."""
        with self._changed:
            self._closed = True
            self._hurry.set()
            if self._thread is None:
                self._stream.close()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    break
            if self._gather:
                self._hurry.wait(self._gather)
                self._hurry.clear()
            with self._changed:
                data = b"".join(self._lines)
                missing, self._dropped = self._dropped, 0
                self._lines.clear()
                self._size = 0
                self._writing = True
            if missing:
                data += self._notice(missing).encode("utf-8", "backslashreplace") + b"\n"
            with contextlib.suppress(OSError):  # nobody will ever read it
                if self._before is not None and self._file is not None:
                    self._before(self._file)
                self._write(data)
        self._stream.close()

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        at = 0
        while at < len(data):
            try:
                at += os.write(self._file, data[at : _end(data, at)])
            except BlockingIOError:
                time.sleep(_FULL)


def _end(data: bytes, at: int) -> int:
    """Return where a piece ends that begins at `at`: after as many lines as are written at once, at least one."""
    found = data.rfind(b"\n", at, at + _AT_ONCE)
    return (found if found >= 0 else data.index(b"\n", at)) + 1


class OutletHandler(logging.Handler):
    """A handler of log records that writes them through an outlet, and never raises."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter) -> None:
        """Write to `stream`, formatted by `formatter`."""
        super().__init__()
        self.setFormatter(formatter)
        self._outlet = Outlet(stream, self._notice)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record soon."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 (a message that cannot be formatted stops nothing)
            line = f"a message of {record.name} cannot be formatted: {type(error).__name__}"
        self._outlet.put(line)

    def flush(self) -> None:
        """Wait a moment until everything is written."""
        self._outlet.flush()

    def _notice(self, count: int) -> str:
        return self.format(
            logging.LogRecord("gateway.logs", logging.WARNING, __file__, 0, dropped(count), None, None)
        )
