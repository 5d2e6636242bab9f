"""What the gateway prints about itself: one line per event on stderr, for people or for machines.

Rules:
- A line stays a line: control characters are escaped, and a record has a largest length.
- Formatting never raises; a bad encoding on stderr costs a character, not a request.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

LIMIT = 4000
"""Characters of one message."""

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_ESCAPES[9] = "\t"


def _message(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += " | " + formatter.formatException(record.exc_info).replace("\n", " | ")
    return text[:LIMIT].translate(_ESCAPES)


class Text(logging.Formatter):
    """`12:34:56 warning backend 'a' is down`, with the engine's name before lines an engine wrote."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        engine = record.name.removeprefix("gateway.backend.")
        source = f"[{engine}] " if engine != record.name else ""
        return f"{clock} {record.levelname.lower():<7} {source}{_message(record, self)}"


class Json(logging.Formatter):
    """One object per line."""

    def format(self, record: logging.LogRecord) -> str:
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
    """Send all of this process' log to stderr. Libraries below warning stay silent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if style == "json" else Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("gateway").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
