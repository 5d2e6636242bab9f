"""The lines of the gateway's log: one per event, for people and for machines, whatever is in them."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from gateway.logs import ENGINE, LIMIT, Json, Text


def record(message: object, *arguments: object, name: str = "gateway.fleet", failed: bool = False) -> Any:
    """Return a log record at the level warning; `failed`: with an exception."""
    info = None
    if failed:
        try:
            raise ValueError("one\ntwo")
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord(name, logging.WARNING, "", 0, message, arguments, info)


def test_text_is_for_people() -> None:
    line = Text().format(record("backend '%s' is down", "a"))
    assert line[8:] == " warning backend 'a' is down"
    assert Text().format(record("loading", name=f"{ENGINE}a")).endswith(" warning [a] loading")


def test_json_is_for_machines() -> None:
    line = json.loads(Json().format(record("backend '%s' is down", "a")))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "gateway.fleet", "message": "backend 'a' is down"}
    said = json.loads(Json().format(record("loading", name=f"{ENGINE}a.b")))
    assert (said["backend"], said["message"]) == ("a.b", "loading")


@pytest.mark.parametrize(
    "message", ["two\nlines", "\x1b[31mred", "\r\x00", "\u2028", "\ud800", "x" * 3 * LIMIT, "ü 漢 🦜"]
)
def test_an_event_is_one_bounded_line(message: str) -> None:
    for failed in (False, True):
        for formatter in (Text(), Json()):
            line = formatter.format(record("%s", message, failed=failed))
            assert len(line.splitlines()) == 1
            assert len(line) < 2 * 6 * LIMIT
            assert "\x1b" not in line
    # A machine gets what was said, unless it is too long.
    told = json.loads(Json().format(record("%s", message)))["message"]
    assert told == (message if len(message) <= LIMIT else message[: LIMIT - 1] + "…")


def test_an_exception_is_told() -> None:
    """But not its message, which may quote what was asked or answered."""
    told = Text().format(record("broken", failed=True))
    assert "broken | Traceback: ValueError | " in told and " in record" in told and "two" not in told
    line = json.loads(Json().format(record("broken", failed=True)))
    assert line["message"] == "broken"
    assert line["exception"].startswith("Traceback: ValueError\n") and "two" not in line["exception"]


class Shy:
    """Cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("arguments", [("a", "b"), (Shy(),)])
def test_formatting_never_raises(arguments: tuple[object, ...]) -> None:
    for formatter in (Text(), Json()):
        assert "no %d" in formatter.format(record("no %d", *arguments))
