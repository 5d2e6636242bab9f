"""When to leave a backend alone: a circuit breaker with growing pauses, and a short rest for one that said "not now".

Rules:
- A pure state machine: the time is an argument, chance too. It knows nothing of sockets, metrics or other backends.
- It opens on failures in a row, or on their share in a window; only failures that speak against the backend count
  (`errors.Row.counts`), a client's own mistake never.
- After a pause one request at a time may probe. Some good ones close it; a bad one opens it for longer than before.
- A backend that is overloaded (429, 503) cools down for a moment. That is no failure and leaves no trace.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Settings:
    """When to open and for how long. The defaults follow Envoy's outlier detection."""

    consecutive: int = 5
    """Failures in a row that open it."""
    share: float = 0.5
    """Part of the requests in the window that must fail to open it."""
    volume: int = 20
    """Requests the window must hold for the share to mean anything."""
    window: float = 30.0
    """Seconds the window looks back."""
    pause: float = 30.0
    """Seconds of the first pause; the n-th in a row takes n times as long."""
    longest: float = 300.0
    jitter: float = 1 / 3
    """The share of a pause that chance may add to it, so that backends do not come back all at once."""
    probes: int = 2
    """Good probes that close it."""


SLICES = 30
"""Parts the window is counted in: its memory does not grow with the rate of requests; it moves on by one of them."""


class State(enum.StrEnum):
    """What a breaker does with requests, from good to bad."""

    CLOSED = "closed"
    """They pass."""
    RESTING = "resting"
    """The backend said "not now" and is left alone for a moment."""
    HALF_OPEN = "half_open"
    """One at a time may probe."""
    OPEN = "open"
    """None passes before the pause is over."""


@dataclass(slots=True)
class _Slice:
    """What was counted in one part of the window, which lasts until a time."""

    until: float
    total: int = 0
    bad: int = 0


class Breaker:
    """The breaker of one backend."""

    __slots__ = (
        "_cool_until",
        "_good",
        "_in_a_row",
        "_open_until",
        "_probing",
        "_recent",
        "_rng",
        "_s",
        "ejections",
    )

    def __init__(self, rng: Random, settings: Settings | None = None) -> None:
        self._s = settings or Settings()
        self._rng = rng
        self._recent: deque[_Slice] = deque()
        self._in_a_row = 0
        self._open_until: float | None = None
        self._cool_until = 0.0
        self._good = 0
        self._probing = False
        self.ejections = 0
        """Pauses in a row, 0 while all is well."""

    def allows(self, now: float) -> bool:
        """A request may go there."""
        if now < self._cool_until:
            return False
        return self._open_until is None or (now >= self._open_until and not self._probing)

    @property
    def open(self) -> bool:
        """It is open, or lets only probes through."""
        return self._open_until is not None

    def state(self, now: float) -> State:
        """What it does with a request at `now`."""
        if self._open_until is not None:
            return State.OPEN if now < self._open_until else State.HALF_OPEN
        return State.RESTING if now < self._cool_until else State.CLOSED

    def begin(self) -> bool:
        """A request goes there now, whether allowed or because it is the last resort. True if it is a probe."""
        probe = self._open_until is not None and not self._probing
        self._probing = self._probing or probe
        return probe

    def end(self, probe: bool, verdict: bool | None, now: float) -> None:
        """A request that began is over: it spoke for the backend (True), against it (False), or neither (None)."""
        if probe:
            self._probing = False
        if verdict is None:
            return
        if self._open_until is not None:
            if probe:
                self._probed(verdict, now)
            return
        self._in_a_row = 0 if verdict else self._in_a_row + 1
        if not self._recent or now >= self._recent[-1].until:
            self._next_slice(now)
        current = self._recent[-1]
        current.total += 1
        if verdict:
            return
        current.bad += 1
        if self._in_a_row >= self._s.consecutive or self._mostly_bad():
            self._eject(now)

    def cool(self, seconds: float, now: float) -> None:
        """Leave it alone for some seconds, as it asked."""
        self._cool_until = max(self._cool_until, now + seconds)

    def _next_slice(self, now: float) -> None:
        while self._recent and self._recent[0].until <= now - self._s.window:
            self._recent.popleft()
        self._recent.append(_Slice(now + self._s.window / SLICES))

    def _mostly_bad(self) -> bool:
        total = sum(piece.total for piece in self._recent)
        return total >= self._s.volume and sum(piece.bad for piece in self._recent) >= self._s.share * total

    def _probed(self, good: bool, now: float) -> None:
        if not good:
            self._eject(now)
            return
        self._good += 1
        if self._good >= self._s.probes:
            self._open_until = None
            self.ejections = 0
            self._in_a_row = 0
            self._recent.clear()

    def _eject(self, now: float) -> None:
        self.ejections += 1
        pause = min(self._s.pause * self.ejections, self._s.longest)
        self._open_until = now + pause * (1 + self._rng.uniform(0, self._s.jitter))
        self._good = 0
        self._in_a_row = 0
        self._recent.clear()
