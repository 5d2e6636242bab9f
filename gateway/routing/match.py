"""Conditions of rules: whether a request fits, and in words why not.

Rules:
- A condition is a name, the way to read one fact of a request, and a test of it. It keeps nothing of a request.
- Nothing waits, and nothing is compiled or parsed per request but the fact itself.
- `words` and `found` are for explanations: what is demanded, and what the request has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from gateway.asked import Asked, share
from gateway.balance.sessions import AGENT, Source, session
from gateway.config.route import Match, Range, Window
from gateway.globs import Globs
from gateway.routing.decision import Moment

_SHOWN = 80
"""Most characters of a request's own text in an explanation."""
_AGENT = Source(AGENT)
_SESSIONS = (_AGENT,)
"""Where a request names its session: as coding agents do."""
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Condition(ABC):
    """One thing that a request must be like."""

    def __init__(self, name: str, words: str) -> None:
        """`name` is the config's key for it; `words` what it demands."""
        self.name = name
        self.words = words

    @abstractmethod
    def fits(self, asked: Asked, moment: Moment) -> bool:
        """Tell whether a request fits."""

    @abstractmethod
    def found(self, asked: Asked, moment: Moment) -> str:
        """Return in words what the request has."""


def all_fit(conditions: Sequence[Condition], asked: Asked, moment: Moment) -> bool:
    """Tell whether a request fits every condition."""
    return all(condition.fits(asked, moment) for condition in conditions)


class OneOf(Condition):
    """One of a request's texts fits one of some patterns."""

    def __init__(self, name: str, read: Callable[[Asked], Sequence[str]], patterns: Iterable[str]) -> None:
        listed = list(patterns)
        super().__init__(name, " or ".join(listed))
        self._read = read
        self._globs = Globs(listed)

    def accepts(self, text: str) -> bool:
        """Tell whether a text fits one of the patterns."""
        return self._globs.fits(text)

    def fits(self, asked: Asked, moment: Moment) -> bool:
        return any(map(self._globs.fits, self._read(asked)))

    def found(self, asked: Asked, moment: Moment) -> str:
        texts = dict.fromkeys(text for text in self._read(asked) if text)
        return ", ".join(text[:_SHOWN] for text in texts) or "nothing"


class Between(Condition):
    """An amount lies within bounds. An amount that is not known is as large as can be."""

    def __init__(self, name: str, read: Callable[[Asked], int | None], bounds: Range) -> None:
        least = "" if bounds.min is None else f"at least {bounds.min}"
        most = "" if bounds.max is None else f"at most {bounds.max}"
        super().__init__(name, " and ".join(filter(None, (least, most))))
        self._read = read
        self._min = bounds.min or 0
        self._max = bounds.max

    def fits(self, asked: Asked, moment: Moment) -> bool:
        amount = self._read(asked)
        if amount is None:
            return self._max is None
        return self._min <= amount and (self._max is None or amount <= self._max)

    def found(self, asked: Asked, moment: Moment) -> str:
        amount = self._read(asked)
        return "any number" if amount is None else str(amount)


class Is(Condition):
    """Something is so, or is not."""

    def __init__(self, name: str, read: Callable[[Asked], bool], wanted: bool) -> None:
        super().__init__(name, str(wanted).lower())
        self._read = read
        self._wanted = wanted

    def fits(self, asked: Asked, moment: Moment) -> bool:
        return self._read(asked) is self._wanted

    def found(self, asked: Asked, moment: Moment) -> str:
        return str(self._read(asked)).lower()


class During(Condition):
    """The request comes in a part of the day. What was found is kept for the rest of the minute."""

    def __init__(self, window: Window) -> None:
        super().__init__("time", f"{', '.join(window.days)} {window.after} to {window.before} {window.zone}")
        self._zone = ZoneInfo(window.zone)
        self._after, self._before = _minutes(window.after), _minutes(window.before)
        self._days = frozenset(map(_DAYS.index, window.days))
        self._minute = -1
        self._within = False

    def fits(self, asked: Asked, moment: Moment) -> bool:
        minute = int(moment.wall // 60)
        if minute != self._minute:
            self._minute, self._within = minute, self._holds(self._here(moment))
        return self._within

    def found(self, asked: Asked, moment: Moment) -> str:
        here = self._here(moment)
        return f"{_DAYS[here.weekday()]} {here:%H:%M}"

    def _here(self, moment: Moment) -> datetime:
        return datetime.fromtimestamp(moment.wall, self._zone)

    def _holds(self, here: datetime) -> bool:
        minute = here.hour * 60 + here.minute
        if self._after < self._before:
            return here.weekday() in self._days and self._after <= minute < self._before
        # It goes past midnight: what is left of it belongs to the day before.
        if minute >= self._after:
            return here.weekday() in self._days
        return minute < self._before and (here - timedelta(days=1)).weekday() in self._days


class Part(Condition):
    """The request is in a part of all: the same for each user or session, by chance where none is named."""

    def __init__(self, salt: str, share: float) -> None:
        super().__init__("share", f"{share:.0%} of the requests")
        self._salt = salt
        self._share = share

    def fits(self, asked: Asked, moment: Moment) -> bool:
        return lot(asked, self._salt, moment) < self._share

    def found(self, asked: Asked, moment: Moment) -> str:
        return whose(asked) or "no user or session, so chance"


def lot(asked: Asked, salt: str, moment: Moment) -> float:
    """Return a number from 0 up to 1: the same for the same `salt` and user, else session; by chance without either.

    A session belongs to its key: the same id with two keys has two lots.
    """
    user = asked.user
    if user:
        return asked.share(salt, user)
    found = session(_SESSIONS, asked)
    return share(salt, f"session {found}") if found else moment.rng.random()


def whose(asked: Asked) -> str:
    """Return in words whose lot a request has; empty where it is chance."""
    if asked.user:
        return f"user {asked.user[:_SHOWN]!r}"
    found = _AGENT.find(asked)
    return f"session {found[:_SHOWN]!r}" if found else ""


def conditions(match: Match, salt: str, own_name: Callable[[str], str]) -> list[Condition]:
    """Return the conditions of a section, those first that cost least.

    `salt` makes the parts of two rules independent of each other. `own_name` returns a model's own name for any of its
    names.
    """
    found: list[Condition] = []
    if match.model is not None:
        names = match.model
        found.append(
            OneOf("model", lambda asked: (asked.request.model, own_name(asked.request.model)), names)
        )
    if match.operation is not None:
        operations = [operation.value for operation in match.operation]
        found.append(OneOf("operation", lambda asked: (asked.request.operation.value,), operations))
    if match.stream is not None:
        found.append(Is("stream", lambda asked: asked.request.stream, match.stream))
    if match.key is not None:
        found.append(OneOf("key", lambda asked: (asked.caller.name,), match.key))
    if match.key_tag is not None:
        found.append(OneOf("key_tag", lambda asked: asked.caller.tags, match.key_tag))
    if match.time is not None:
        found.append(During(match.time))
    found += [_header(name, patterns) for name, patterns in match.header.items()]
    return found + _of_the_body(match, salt)


def _of_the_body(match: Match, salt: str) -> list[Condition]:
    """Return the conditions for which the body must be read."""
    found: list[Condition] = []
    if match.user is not None:
        found.append(OneOf("user", lambda asked: _given(asked.user), match.user))
    found += [_metadata(name, patterns) for name, patterns in match.metadata.items()]
    if match.max_tokens is not None:
        found.append(Between("max_tokens", lambda asked: asked.max_tokens, match.max_tokens))
    if match.prompt_tokens is not None:
        found.append(Between("prompt_tokens", lambda asked: asked.prompt_tokens, match.prompt_tokens))
    if match.tools is not None:
        found.append(Is("tools", lambda asked: asked.has_tools, match.tools))
    if match.images is not None:
        found.append(Is("images", lambda asked: asked.has_images, match.images))
    if match.share is not None:
        found.append(Part(salt, match.share))
    return found


def _given(text: str) -> Sequence[str]:
    return (text,) if text else ()


def _header(name: str, patterns: Iterable[str]) -> Condition:
    wanted = name.lower().encode()

    def read(asked: Asked) -> Sequence[str]:
        value = asked.headers.get(wanted)
        return () if value is None else (value.decode("latin-1"),)

    return OneOf(f"header {name}", read, patterns)


def _metadata(name: str, patterns: Iterable[str]) -> Condition:
    return OneOf(f"metadata {name}", lambda asked: _given(asked.metadata(name)), patterns)


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)
