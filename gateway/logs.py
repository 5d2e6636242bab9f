"""The gateway's log: one line per event on stderr, as text for people or as JSON for machines.

Rules:
- An event is one line: control characters are escaped, and the length of a message is bounded.
- Formatting never raises; a character that stderr cannot show is replaced.
- Nobody waits for stderr: what is not read in time is dropped, and how much that was is told.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

from gateway.outlet import OutletHandler

LIMIT = 4000
"""The largest number of characters of one message."""

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_ESCAPES[9] = "\t"


def _message(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += " | " + formatter.formatException(record.exc_info).replace("\n", " | ")
    return text[:LIMIT].translate(_ESCAPES)


class Text(logging.Formatter):
    """Text such as `12:34:56 warning backend 'a' is down`; the output of an engine has the backend's name before it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        engine = record.name.removeprefix("gateway.backend.")
        source = f"[{engine}] " if engine != record.name else ""
        return f"{clock} {record.levelname.lower():<7} {source}{_message(record, self)}"


class Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        return json.dumps(
            {
                "time": stamp,
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _message(record, self),
            }
        )


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send the log of this process to stderr. Libraries log warnings and errors only."""
    handler = OutletHandler(sys.stderr, Json() if style == "json" else Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("gateway").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
