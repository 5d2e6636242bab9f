"""When to stop sending to a backend: a circuit breaker with growing pauses, and a short cooldown for an overloaded one.

Rules:
- A pure state machine: time and chance are arguments. It knows nothing of sockets, metrics or other backends.
- It opens on consecutive failures, or on their share in a window. Only failures that speak against the backend count
  (`errors.Row.counts`); a client's own mistake never does.
- After a pause one request at a time may probe. Some successful probes close it; a failed one opens it for longer.
- A backend that says it is overloaded (429, 503) gets a cooldown. That is not counted as a failure.
- `settings` may be replaced at any time: a config that is reloaded changes the numbers, not the state.
"""

from __future__ import annotations

import enum
from collections import deque
from random import Random
from typing import NamedTuple


class Settings(NamedTuple):
    """When a breaker opens and for how long. The defaults follow Envoy's outlier detection."""

    consecutive: int = 5
    """Consecutive failures that open it."""
    share: float = 0.5
    """The share of failed requests in the window that opens it."""
    volume: int = 20
    """Requests the window must hold before the share is looked at."""
    window: float = 30.0
    """Seconds the window looks back."""
    pause: float = 30.0
    """Seconds of the first pause; the n-th in a row is n times as long."""
    longest: float = 300.0
    """Seconds of the longest pause, before jitter."""
    jitter: float = 1 / 3
    """The share of a pause that chance may add, so that backends do not come back all at once."""
    probes: int = 2
    """Successful probes that close it."""


SLICES = 30
"""Parts the window is counted in, so that its memory does not grow with the rate of requests."""


class State(enum.StrEnum):
    """What a breaker does with requests, from good to bad."""

    CLOSED = "closed"
    """Requests pass."""
    RESTING = "resting"
    """The backend said that it is overloaded and gets no requests during its cooldown."""
    HALF_OPEN = "half_open"
    """One request at a time may probe."""
    OPEN = "open"
    """No request passes before the pause is over."""


class _Slice:
    """The requests counted in one part of the window."""

    __slots__ = ("bad", "total", "until")

    def __init__(self, until: float) -> None:
        """Start counting at zero; `until` is the time at which this part ends."""
        self.until = until
        self.total = 0
        self.bad = 0


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
        "ejections",
        "settings",
    )

    def __init__(self, rng: Random, settings: Settings | None = None) -> None:
        """Start closed. `rng` spreads the ends of pauses."""
        self.settings = settings or Settings()
        """When it opens and for how long; may be replaced at any time and counts from then on."""
        self._rng = rng
        self._recent: deque[_Slice] = deque()
        self._in_a_row = 0
        self._open_until: float | None = None
        self._cool_until = 0.0
        self._good = 0
        self._probing = False
        self.ejections = 0
        """Pauses in a row, 0 while it is closed."""

    def anew(self) -> Breaker:
        """Return a closed breaker with the same settings, for another engine."""
        return Breaker(self._rng, self.settings)

    def allows(self, now: float) -> bool:
        """Tell whether a request may be sent at `now`."""
        if now < self._cool_until:
            return False
        return self._open_until is None or (now >= self._open_until and not self._probing)

    @property
    def open(self) -> bool:
        """Whether it is open or half open."""
        return self._open_until is not None

    def state(self, now: float) -> State:
        """Return what it does with a request at `now`."""
        if self._open_until is not None:
            return State.OPEN if now < self._open_until else State.HALF_OPEN
        return State.RESTING if now < self._cool_until else State.CLOSED

    def begin(self) -> bool:
        """Count a request that is sent now, whether allowed or as the last resort. Return whether it is a probe."""
        probe = self._open_until is not None and not self._probing
        self._probing = self._probing or probe
        return probe

    def end(self, probe: bool, verdict: bool | None, now: float) -> None:
        """Take the result of a request that began: success (True), failure (False), or neither (None).

        `probe` is what `begin` returned for it.
        """
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
        if self._in_a_row >= self.settings.consecutive or self._mostly_bad():
            self._eject(now)

    def cool(self, seconds: float, now: float) -> None:
        """Start a cooldown of some seconds, as the backend asked for; a longer one that runs already stays."""
        self._cool_until = max(self._cool_until, now + seconds)

    def _next_slice(self, now: float) -> None:
        window = self.settings.window
        while self._recent and self._recent[0].until <= now - window:
            self._recent.popleft()
        self._recent.append(_Slice(now + window / SLICES))

    def _mostly_bad(self) -> bool:
        total = bad = 0
        for piece in self._recent:
            total += piece.total
            bad += piece.bad
        return total >= self.settings.volume and bad >= self.settings.share * total

    def _probed(self, good: bool, now: float) -> None:
        if not good:
            self._eject(now)
            return
        self._good += 1
        if self._good >= self.settings.probes:
            self._open_until = None
            self.ejections = 0
            self._in_a_row = 0
            self._recent.clear()

    def _eject(self, now: float) -> None:
        self.ejections += 1
        pause = min(self.settings.pause * self.ejections, self.settings.longest)
        self._open_until = now + pause * (1 + self._rng.uniform(0, self.settings.jitter))
        self._good = 0
        self._in_a_row = 0
        self._recent.clear()
