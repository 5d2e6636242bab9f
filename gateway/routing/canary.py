"""A canary: the share of the requests that a new model gets beside the one it is to replace, the incumbent.

Rules:
- Pure: outcomes and time are arguments. Every decision is made while an outcome is counted, so without requests the
  share stays as it is.
- The share grows by a step when the step has lasted its interval, both models have had enough requests, and the canary
  does not look worse than the bounds allow. Else it is held.
- It goes back to zero, and stays there, on proof only: the odds that such outcomes come from a model within the bounds
  must be below `DOUBT`, however often one looks, over all steps together. So a few unlucky requests decide nothing.
- What is proved is that a share of its requests is too large: of those that failed, against the incumbent's share
  and the bound; of those slower than the bound makes of the incumbent's 95th percentile, against a twentieth. The
  incumbent's own numbers are taken at their least certain, in the canary's favour.
- Each step is judged by its own requests. When the incumbent gets none any more, its last step is the measure.
"""

from __future__ import annotations

import enum
from math import lgamma, log, sqrt
from typing import Final

from gateway.config.canary import Growth
from gateway.telemetry.percentile import Durations

DOUBT: Final = 0.001
"""The odds at which a canary within its bounds may go back to zero by chance, for each of the two bounds."""
LEAST: Final = 3
"""Requests that must have failed, or have been slow, before anything follows from them."""
_PERCENTILE: Final = 0.95
_SURE: Final = 2.33
"""Standard deviations of a bound that is passed by chance once in a hundred."""
_LIKELY: Final = 1.64
"""The same, once in twenty."""


class State(enum.StrEnum):
    """What a canary is doing."""

    GROWING = "growing"
    """The time of its step is not over."""
    HELD = "held"
    """The time is over, but there were too few requests, or the canary looks worse."""
    DONE = "done"
    """It has its last share."""
    ROLLED_BACK = "rolled_back"
    """It was out of bounds and gets no requests."""


class Arm:
    """The requests that one of the two models had in this step."""

    __slots__ = ("failed", "first_token", "total")

    def __init__(self) -> None:
        self.total = 0
        self.failed = 0
        self.first_token = Durations()

    def count(self, failed: bool, first_token: float | None) -> None:
        """Count a request."""
        self.total += 1
        self.failed += failed
        if first_token is not None:
            self.first_token.observe(first_token)


class Canary:
    """The share of one canary, and what it follows from."""

    def __init__(self, settings: Growth, now: float) -> None:
        """Begin with the first step at `now`, in seconds of any clock that the later calls have too."""
        self.settings = settings
        self.state = State.GROWING
        self.reason = ""
        """Why it is held or was rolled back, in words; else empty."""
        self._step = 0
        self._windows = 0
        self._begin(now)

    @property
    def share(self) -> float:
        """The share of the requests that the canary gets now, from 0 to 1."""
        return 0.0 if self.state is State.ROLLED_BACK else self.settings.steps[self._step]

    def progress(self, now: float) -> str:
        """Return in words where it stands at `now`, and what the next step waits for."""
        settings = self.settings
        step = f"step {self._step + 1} of {len(settings.steps)}"
        canary, incumbent = self.canary.total, self.incumbent.total
        if not self._watches:
            return step if self.state is State.DONE else f"{step} was its last"
        since = (
            f"{step} for {max(0.0, now - self._since):.0f} s, with {canary} requests of the canary and {incumbent} of "
            "the incumbent"
        )
        if self.state is State.DONE:
            return since
        return f"{since}; the next one after {settings.interval:g} s and {settings.samples} of each"

    def reset(self, now: float) -> None:
        """Begin again with the first step, for example after the cause of a roll-back was found."""
        self.state, self.reason, self._step, self._windows = State.GROWING, "", 0, 0
        self._begin(now)

    def count(self, canary: bool, failed: bool, first_token: float | None, now: float) -> State | None:
        """Count a request of the canary, or else of the incumbent. Return the new state or step's state, if any.

        `first_token` is in seconds; None where the answer was no stream, or there was none.
        """
        if not self._watches:
            return None
        before = (self.state, self._step)
        arm = self.canary if canary else self.incumbent
        arm.count(failed, first_token)
        if canary and (found := self._proof()):
            self.state, self.reason = State.ROLLED_BACK, found
        elif now - self._since >= self.settings.interval:
            self._go_on(now)
        return self.state if (self.state, self._step) != before else None

    @property
    def _watches(self) -> bool:
        """Whether outcomes can still change anything: not after a roll-back, nor when there is no incumbent left."""
        return self.state is not State.ROLLED_BACK and not (self.state is State.DONE and self.share == 1.0)

    def _begin(self, now: float) -> None:
        """Begin to count anew. The incumbent's numbers are kept where it gets no more requests."""
        self._since = now
        self._windows += 1
        self.canary = Arm()
        if self._windows == 1 or self.share < 1.0:
            self.incumbent = Arm()

    def _go_on(self, now: float) -> None:
        """Begin the next step if there is nothing against it; after the last one go on watching."""
        done = self.state is State.DONE
        lacking = self._lacking()
        if lacking:
            if not done:
                self.state, self.reason = State.HELD, lacking
            return
        self.reason = ""
        if self._step + 1 < len(self.settings.steps):
            self.state = State.GROWING
            self._step += 1
        else:
            self.state = State.DONE
        self._begin(now)

    def _lacking(self) -> str:
        """Return in words why the next step cannot begin; empty where it can."""
        canary, incumbent, least = self.canary, self.incumbent, self.settings.samples
        last = self.share == 1.0
        if canary.total < least or (incumbent.total < least and not last):
            return f"too few requests: {canary.total} of the canary, {incumbent.total} of the incumbent"
        # After the last request of the incumbent its numbers do not become any better.
        rate = _bound(incumbent.failed, incumbent.total, _SURE if last else 0.0)
        rate += self.settings.within.errors
        if _bound(canary.failed, canary.total, -_LIKELY) > rate:
            return f"{canary.failed} of its {canary.total} requests failed"
        if not (canary.first_token.total and incumbent.first_token.total):
            return ""
        limit = self._slowest(_SURE)
        if limit is None:
            return "" if last else "too few streams to compare the time to the first token"
        if not last:
            limit = self._slowest(0.0) or limit
        slow, streams = canary.first_token.above(limit), canary.first_token.total
        if _bound(slow, streams, -_LIKELY) > 1 - _PERCENTILE:
            return f"{slow:.0f} of its {streams:.0f} streams took longer than {limit:.3g} s to begin"
        return ""

    def _proof(self) -> str:
        """Return in words what proves that the canary is out of bounds; empty where nothing does."""
        canary, incumbent = self.canary, self.incumbent
        # Later windows must be clearer, so that all of them together are wrong as seldom as one may be.
        needed = 2 * log(self._windows) - log(DOUBT)
        if canary.failed >= LEAST:
            rate = _bound(incumbent.failed, incumbent.total, _SURE) + self.settings.within.errors
            if _evidence(canary.failed, canary.total, rate) > needed:
                return (
                    f"{canary.failed} of its {canary.total} requests failed, and {incumbent.failed} of the "
                    f"incumbent's {incumbent.total}"
                )
        limit = self._slowest(_SURE) if canary.first_token.total >= LEAST else None
        if limit is not None:
            slow, streams = canary.first_token.above(limit), canary.first_token.total
            if slow >= LEAST and _evidence(slow, streams, 1 - _PERCENTILE) > needed:
                return (
                    f"{slow:.0f} of its {streams:.0f} streams took longer than {limit:.3g} s to begin, the bound on "
                    "the slowest twentieth"
                )
        return ""

    def _slowest(self, deviations: float) -> float | None:
        """Return the longest first token that is not slow, in seconds; None where too few streams are known.

        It is the bound on the incumbent's 95th percentile, where that is longer by so many standard deviations.
        """
        streams = self.incumbent.first_token
        if not streams.total:
            return None
        share = _PERCENTILE + deviations * sqrt(_PERCENTILE * (1 - _PERCENTILE) / streams.total)
        if share >= 1.0:
            return None
        return streams.percentile(share) * (1 + self.settings.within.first_token)


def _bound(hits: float, total: float, deviations: float) -> float:
    """Return Wilson's bound on the share that `hits` of `total` tell of: the upper one, or below zero the lower."""
    if not total:
        return 0.0 if deviations < 0 else 1.0
    share, square = hits / total, deviations * deviations
    middle = share + square / (2 * total)
    width = deviations * sqrt(share * (1 - share) / total + square / (4 * total * total))
    return (middle + width) / (1 + square / total)


def _evidence(hits: float, total: float, rate: float) -> float:
    """Return the logarithm of how much likelier `hits` of `total` are at some other rate, all being as likely before.

    Where the rate is right, this passes `log(1 / p)` at any time with a probability of at most p (Ville's inequality).
    """
    if rate >= 1.0 or hits <= rate * total:
        return 0.0
    mixed = lgamma(hits + 1) + lgamma(total - hits + 1) - lgamma(total + 2)
    return mixed - hits * log(rate) - ((total - hits) * log(1 - rate) if hits < total else 0.0)
