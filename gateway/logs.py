"""The gateway's log: one line per event on stderr, as text for people or as JSON for machines.

Rules:
- An event is one line: control characters are escaped, and the length of a message is bounded.
- Formatting never raises; a character that stderr cannot show is replaced.
- Nobody waits for stderr: what is not read in time is dropped, and how much that was is told.
- Of an exception its type and places in the code are logged, not its message, which may quote a prompt or an answer.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Literal

from gateway.outlet import OutletHandler

CAUSES = 5
"""The most exceptions of a chain that are told."""
LIMIT = 4000
"""The largest number of characters of one message; what is longer ends in `…`."""

Style = Literal["text", "json"]

ENGINE = "gateway.backend."
"""The logger of what an engine says is this and the backend's name."""

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_ESCAPES[9] = "\t"


def _cut(text: str) -> str:
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"


def one_line(text: str) -> str:
    """Return text that is one line whatever it holds, and not too long."""
    return _cut(text).translate(_ESCAPES)


def _said(record: logging.LogRecord) -> str:
    """Return the message of a record, also of one whose arguments do not fit its format."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 (any argument may refuse to be printed)
        return str(record.msg)


def _places(error: BaseException | None) -> Iterator[str]:
    """Yield the type of an exception and each place it came through, then the same of its causes."""
    for _ in range(CAUSES):
        if error is None:
            return
        yield f"Traceback: {type(error).__name__}"
        for frame in traceback.extract_tb(error.__traceback__):
            yield f"{frame.filename}:{frame.lineno} in {frame.name}"
        error = error.__cause__ or error.__context__


class Text(logging.Formatter):
    """Text such as `12:34:56 warning backend 'a' is down`; the output of an engine has the backend's name before it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        engine = record.name.removeprefix(ENGINE)
        source = f"[{engine}] " if engine != record.name else ""
        text = _said(record)
        if record.exc_info:
            text += " | " + " | ".join(_places(record.exc_info[1]))
        return f"{clock} {record.levelname.lower():<7} {source}{one_line(text)}"


class Json(logging.Formatter):
    """One JSON object per line; `backend` is there where an engine speaks, `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": stamp, "level": record.levelname.lower(), "logger": record.name}
        if record.name.startswith(ENGINE):
            line["backend"] = record.name.removeprefix(ENGINE)
        line["message"] = _cut(_said(record))
        if record.exc_info:
            line["exception"] = _cut("\n".join(_places(record.exc_info[1])))
        return json.dumps(line)


def configure(level: str, style: Style) -> None:
    """Send the log of this process to stderr. Libraries log warnings and errors only."""
    handler = OutletHandler(sys.stderr, _formatter(style))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("gateway").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def change(level: str, style: Style) -> None:
    """Give a log that was configured another level and style from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, OutletHandler):
            handler.setFormatter(_formatter(style))
    logging.getLogger("gateway").setLevel(level.upper())


def _formatter(style: Style) -> logging.Formatter:
    return Json() if style == "json" else Text()
