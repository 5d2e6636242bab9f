"""When to stop sending to a backend: a circuit breaker with growing pauses, and a short cooldown for an overloaded one.

Rules:
- A pure state machine: time and chance are arguments. It knows nothing of sockets, metrics or other backends.
- It opens on consecutive failures, or on their share in a window. Which failures speak against the backend is decided
  elsewhere (`gateway.dispatch.blame`); only those are reported here.
- After a pause it is half open: one request at a time may pass as a trial. Some successful trials close it; a failed
  one opens it for longer. A trial ends with the first content of its answer.
- A request that is sent as a last resort while it is open is no trial: its failure does not lengthen the pause.
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
    trials: int = 2
    """Successful trials that close it."""


SLICES = 30
"""Parts the window is counted in, so that its memory does not grow with the rate of requests."""


class State(enum.StrEnum):
    """What a breaker does with requests, from good to bad."""

    CLOSED = "closed"
    """Requests pass."""
    RESTING = "resting"
    """The backend said that it is overloaded and gets no requests during its cooldown."""
    HALF_OPEN = "half_open"
    """One request at a time may pass as a trial."""
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
        "_recent",
        "_rng",
        "_trying",
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
        self._trying = False
        self.ejections = 0
        """Pauses in a row, 0 while it is closed."""

    def anew(self) -> Breaker:
        """Return a closed breaker with the same settings, for another engine."""
        return Breaker(self._rng, self.settings)

    def allows(self, now: float) -> bool:
        """Tell whether a request may be sent at `now`."""
        if now < self._cool_until:
            return False
        return self._open_until is None or (now >= self._open_until and not self._trying)

    @property
    def open(self) -> bool:
        """Whether it is open or half open."""
        return self._open_until is not None

    def left(self, now: float) -> float:
        """Return the seconds until a trial may pass, 0 if one may pass now or it is closed."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def state(self, now: float) -> State:
        """Return what it does with a request at `now`."""
        if self._open_until is not None:
            return State.OPEN if now < self._open_until else State.HALF_OPEN
        return State.RESTING if now < self._cool_until else State.CLOSED

    def begin(self, now: float) -> bool:
        """Take note of a request that is sent at `now`. Return whether it is a trial; the caller must end that."""
        trial = self._open_until is not None and now >= self._open_until and not self._trying
        self._trying = self._trying or trial
        return trial

    def end_trial(self) -> None:
        """End the trial that runs: it was successful or failed, or nobody will ever know."""
        self._trying = False

    def halve(self) -> None:
        """End the pause, because a health probe found the engine back: the next request is a trial."""
        if self._open_until is not None:
            self._open_until = 0.0

    def reset(self) -> None:
        """Close it, end a cooldown, and forget every failure so far: an operator knows that the engine is well."""
        self._close()
        self._cool_until = 0.0

    def succeeded(self, trial: bool, now: float) -> None:
        """Count a success. `trial` is what `begin` returned for the request, False once its trial was counted."""
        if self._open_until is None:
            self._in_a_row = 0
            self._slice(now).total += 1
        elif trial:
            self._good += 1
            if self._good >= self.settings.trials:
                self._close()

    def failed(self, trial: bool, now: float) -> None:
        """Count a failure that speaks against the backend. `trial` as for `succeeded`."""
        if self._open_until is not None:
            if trial:
                self._eject(now)
            return
        self._in_a_row += 1
        current = self._slice(now)
        current.total += 1
        current.bad += 1
        if self._in_a_row >= self.settings.consecutive or self._mostly_bad():
            self._eject(now)

    def cool(self, seconds: float, now: float) -> None:
        """Start a cooldown of some seconds, as the backend asked for; a longer one that runs already stays."""
        self._cool_until = max(self._cool_until, now + seconds)

    def _slice(self, now: float) -> _Slice:
        """Return the part of the window that `now` lies in."""
        recent = self._recent
        if not recent or now >= recent[-1].until:
            while recent and recent[0].until <= now - self.settings.window:
                recent.popleft()
            recent.append(_Slice(now + self.settings.window / SLICES))
        return recent[-1]

    def _mostly_bad(self) -> bool:
        total = bad = 0
        for piece in self._recent:
            total += piece.total
            bad += piece.bad
        return total >= self.settings.volume and bad >= self.settings.share * total

    def _close(self) -> None:
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
