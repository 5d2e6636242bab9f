"""How long an engine, or a service, asks to be left alone, and how many requests it still takes, by its headers.

Rules:
- Read in this order, the first that can be read counts: `retry-after-ms` (OpenAI, Azure), `Retry-After` (RFC 9110, and
  fractions of seconds), `x-ratelimit-reset` and its kin.
- A date is compared with the answer's own `Date`, so that the clocks need not agree (RFC 9110, section 10.2.3).
- No input raises an exception. What is absent, negative or unreadable asks for nothing.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from backends.base import Headers
from backends.facts.units import seconds

_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", re.ASCII)
_LONGEST = 30 * 86_400.0
"""Seconds of the longest wait that is passed on."""
_RESET, _REMAINING = "x-ratelimit-reset", "x-ratelimit-remaining"
_REQUESTS = (
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-reset-requests",
    b"anthropic-ratelimit-requests-remaining",
    b"anthropic-ratelimit-requests-reset",
)
_POINT_IN_TIME = 1e9
"""A number of seconds from here on is one since 1970, not a length: some services tell when and not how long."""
_MILLISECONDS = 1e11
"""A point in time from here on is in milliseconds."""


def retry_after(headers: Headers) -> float | None:
    """Return for how many seconds the sender of an error asks not to be asked again; None if it does not say."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in (b"retry-after", b"retry-after-ms", b"date") or name.startswith(b"x-ratelimit-re"):
            found[name.decode("latin-1")] = value.decode("latin-1").strip()
    now = _date(found.get("date", ""))
    wait = _number(found.get("retry-after-ms", ""))
    if wait is not None:
        wait /= 1000
    else:
        wish = found.get("retry-after", "")
        wait = _number(wish)
        if wait is None:
            wait = _until(_date(wish), now)
        if wait is None:
            wait = max(_resets(found, now), default=None)
    return None if wait is None else min(wait, _LONGEST)


def remaining(headers: Headers) -> tuple[float, float | None] | None:
    """Return how many requests are left before a limit, and for how many seconds that holds; None where it is not told.

    As OpenAI and many others tell it (`x-ratelimit-remaining-requests`), or as Anthropic does. The seconds are None
    where the headers do not tell them.
    """
    found = {name: value for name, value in headers if name in _REQUESTS or name == b"date"}
    for left, reset in (_REQUESTS[:2], _REQUESTS[2:]):
        count = _number(found.get(left, b"").decode("latin-1").strip())
        if count is not None:
            now = _date(found.get(b"date", b"").decode("latin-1").strip())
            wait = _length(found.get(reset, b"").decode("latin-1").strip(), now)
            return count, None if wait is None else min(wait, _LONGEST)
    return None


def _resets(found: dict[str, str], now: datetime | None) -> Iterator[float]:
    """Yield when the limits that are used up are reset, in seconds; if none says that it is, when each of them is."""
    resets = {name.removeprefix(_RESET): text for name, text in found.items() if name.startswith(_RESET)}
    empty = [kind for kind in resets if _number(found.get(_REMAINING + kind, "")) == 0]
    for kind in empty or resets:
        wait = _length(resets[kind], now)
        if wait is not None:
            yield wait


def _length(text: str, now: datetime | None) -> float | None:
    """Return the seconds in `12`, `0.5`, `1m30s`, `350ms`, or until a point in time (`1732183230`, a date)."""
    number = _number(text)
    if number is None:
        try:
            return seconds(text)
        except ValueError:
            return _until(_date(text), now)
    if number < _POINT_IN_TIME:
        return number
    since_1970 = number / 1000 if number >= _MILLISECONDS else number
    return None if now is None else _positive(since_1970 - now.timestamp())


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _until(end: datetime | None, now: datetime | None) -> float | None:
    return None if end is None or now is None else _positive((end - now).total_seconds())


def _positive(length: float) -> float | None:
    return length if length >= 0 else None


def _date(text: str) -> datetime | None:
    """Return the point in time of a date as HTTP or as ISO 8601 writes it."""
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            return None
    try:
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
