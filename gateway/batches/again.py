"""Whether a request of a batch that failed is sent again, and when. Pure.

Rules:
- A batch waits for what passes: a backend that is down or starts again, a queue that is full, a gateway that stops. It
  does so for as long as the batch lasts, because each of its lines would meet the same.
- What may be the request's own fault is tried a few times only: an engine that broke off, failed or took too long.
- Everything else is the answer.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import msgspec

from backends.base import Kind
from gateway.errors import ROWS, Own

TRIES: Final = 5
"""How often a request is sent whose engine fails at it."""
_LONGEST: Final = 30.0
"""Seconds between two tries at most."""


class Verdict(enum.Enum):
    """What becomes of a request after an answer."""

    DONE = "done"
    FAILED = "failed"
    """The answer is an error, and there will be no other."""
    TRY = "try"
    """It is sent again unless it has been sent `TRIES` times."""
    WAIT = "wait"
    """It is sent again, however often."""


_WAITING: Final = frozenset((429, ROWS[Own.NO_BACKEND].status))
_TRYING: Final = frozenset((408, 500, 502, 504))
_FINAL: Final = frozenset((ROWS[Own.CANCELLED].code, ROWS[Kind.LIMIT].code))
"""Codes of errors that are met again however often: an operator ended the request, its answer is too large."""
_UNREACHED: Final = ROWS[Kind.CONNECT].code


def verdict(status: int, code: str) -> Verdict:
    """Return what follows from an answer with this status, and the `code` of its error; empty where it has none."""
    if 200 <= status < 300:
        return Verdict.DONE
    if code in _FINAL:
        return Verdict.FAILED
    if status in _WAITING or code == _UNREACHED:
        return Verdict.WAIT
    return Verdict.TRY if status in _TRYING else Verdict.FAILED


def pause(tries: int, asked: float | None) -> float:
    """Return the seconds until the next try after so many; `asked` is what the answer's `Retry-After` says."""
    own = min(_LONGEST, 0.25 * float(2 ** min(tries, 12)))
    return own if asked is None else min(_LONGEST, max(own, asked))


class _Error(msgspec.Struct):
    code: Any = None


class _Answer(msgspec.Struct):
    error: _Error | None = None


_answers: Final = msgspec.json.Decoder(_Answer)


def code_of(body: bytes) -> str:
    """Return the code of the error in an answer; empty where it has none."""
    try:
        error = _answers.decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return error.code if error is not None and isinstance(error.code, str) else ""
