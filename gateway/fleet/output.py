"""What a launched engine prints: read to its end, logged line by line, and its last lines kept (`gateway.fleet.ring`).

Rules:
- The output is read until it ends, whatever happens to the lines: an engine whose pipe is full would stand still.
- What an adapter raises while it judges lines is logged once; then its answer is done without.
- The engine's key is in no line of the log.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import re
from collections.abc import Callable, Sequence

from gateway.fleet.ring import Ring

log = logging.getLogger("gateway.fleet")

TAIL = 200
"""How many of the last lines of an engine's output are kept, to tell why it died."""
LINE_LIMIT = 2000
"""Characters of one line of an engine's output."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LINE_END = re.compile(rb"[\r\n]+")


class Lines:
    """A splitter of an engine's output into lines for the log: printable, and of bounded length."""

    def __init__(self) -> None:
        """Start with an empty line."""
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete with these bytes, without blank ones."""
        *whole, rest = _LINE_END.split(self._rest + data)
        # A character has at most four bytes. What exceeds the longest line is dropped as it comes.
        self._rest = rest[: 4 * LINE_LIMIT + 4]
        return [self._printable(line) for line in whole if line.strip()]

    @staticmethod
    def _printable(line: bytes) -> str:
        text = (
            _COLOUR.sub("", line[: 4 * LINE_LIMIT + 4].decode(errors="replace"))
            .replace("\t", "    ")
            .rstrip()
        )
        text = text if len(text) <= LINE_LIMIT else text[: LINE_LIMIT - 1] + "…"
        return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class Output:
    """The output of one launched engine, over all its starts."""

    def __init__(
        self,
        name: str,
        log_level: Callable[[str], int],
        crash_reason: Callable[[Sequence[str]], str | None],
    ) -> None:
        """Start without a line. `name` is the backend's; the functions are the adapter's, see `backends.base`."""
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL)
        """The last lines since the last start."""
        self.ring = Ring()
        """The last lines of all starts, for operators."""
        self._name = name
        self._log_level = log_level
        self._crash_reason = crash_reason
        self._log = logging.getLogger(f"gateway.backend.{name}")
        self._key: str | None = None
        self._bugs: set[str] = set()
        """What has failed already, and was logged then."""

    def begin(self, key: str | None) -> None:
        """Forget the lines, because the engine starts anew; `key` is to be hidden from now on."""
        self.tail.clear()
        self._key = key

    async def drain(self, stream: asyncio.StreamReader | None) -> None:
        """Read a start's output to its end, and log it line by line."""
        assert stream is not None
        lines = Lines()
        while data := await stream.read(65536):
            self._note(lines, data)
        self._note(lines, b"\n")  # the last line may lack its end

    def crash_reason(self) -> str | None:
        """Return the adapter's one line on why the engine died; None if the last lines do not say."""
        try:
            return self._crash_reason(self.tail)
        except Exception as error:  # noqa: BLE001 (an adapter may come from elsewhere)
            self._tell_bug("crash_reason", error)
            return None

    def _note(self, lines: Lines, data: bytes) -> None:
        try:
            for line in lines.feed(data):
                self._note_line(line)
        except Exception as error:  # noqa: BLE001 (whatever it is, the engine must not stand still)
            self._tell_bug("the log of its output", error)

    def _note_line(self, line: str) -> None:
        if self._key is not None:
            line = line.replace(self._key, "[key]")  # engines like to print their settings
        self.tail.append(line)
        self.ring.add("line", line)
        self._log.log(self._level(line), "%s", line)

    def _level(self, line: str) -> int:
        try:
            return int(self._log_level(line))
        except Exception as error:  # noqa: BLE001 (as above)
            self._tell_bug("log_level", error)
            return logging.INFO

    def _tell_bug(self, what: str, error: Exception) -> None:
        """Log an exception, if it is the first of its kind."""
        if what not in self._bugs:
            self._bugs.add(what)
            log.error("backend '%s': %s failed, which is a bug", self._name, what, exc_info=error)
