"""When a model's request may have a second attempt beside its first: how long it must have waited, and how many may.

Rules:
- Pure: times are arguments. Each worker process has its own estimates and budget.
- Streams and whole answers, and each operation, take their own times to begin: each kind has its own percentile.
- A kind of answer has no percentile before `ENOUGH` of it are known. What was measured lately counts for more.
- An attempt that lost against another is counted with the time it had waited by then: if it were left out, the slow
  ones would be missing from the percentile, and it would sink with each hedge.
- Of any run of N requests at most `share` * (N + `RUN`) are hedged.
"""

from __future__ import annotations

from typing import Final

from gateway.telemetry.percentile import Durations

ENOUGH: Final = 50
"""Answers that must be known before their percentile is believed."""
RUN: Final = 500
"""Requests whose budget may be saved for a time when many are slow."""
_KNOWN: Final = 2_000
"""Answers after which older ones count half."""
_EVERY: Final = 16
"""Answers after which the percentile is computed anew."""


class Estimate:
    """A live percentile of how long answers of one kind take to begin."""

    __slots__ = ("_durations", "_fresh", "_left", "_wait", "share")

    def __init__(self, share: float) -> None:
        """Estimate the time that `share` of the answers, from 0 to 1, do not exceed."""
        self.share: float = share
        self._durations: Durations = Durations()
        self._wait: float = 0.0
        self._left: int = ENOUGH
        """Answers until the percentile is computed next."""
        self._fresh: bool = False

    def observe(self, seconds: float) -> None:
        """Count one answer that took so long to begin."""
        durations = self._durations
        durations.observe(seconds)
        self._left -= 1
        if self._left <= 0:
            self._left = _EVERY
            self._fresh = True
            self._wait = durations.percentile(self.share)
            if durations.total >= _KNOWN:
                durations.fade()

    def wait(self) -> float | None:
        """Return the percentile in seconds; None while too few answers are known."""
        return self._wait if self._fresh else None


class Hedging:
    """The hedging of one model."""

    __slots__ = ("_credit", "_estimates", "_fixed", "_percentile", "_share")

    def __init__(self) -> None:
        """Start without a budget: `change` gives one."""
        self._credit: float = 0.0
        self._share: float = 0.0
        self._fixed: float = 0.0
        self._percentile: float = 0.95
        self._estimates: dict[tuple[str, bool], Estimate] = {}

    def change(self, after: float | str, share: float) -> None:
        """Hedge after so many seconds, or after a percentile such as `p95`; `share` of the requests may be hedged."""
        self._share = share
        self._credit = min(self._credit, self._most)
        self._fixed = 0.0 if isinstance(after, str) else after
        percentile = float(after[1:]) / 100 if isinstance(after, str) else 0.95
        if percentile != self._percentile:
            self._percentile = percentile
            self._estimates.clear()

    @property
    def _most(self) -> float:
        return max(1.0, self._share * RUN) if self._share else 0.0

    def wait(self, operation: str, stream: bool) -> float | None:
        """Count a request. Return the seconds after which it may be hedged; None where it may not."""
        self._credit = min(self._credit + self._share, self._most)
        fixed = self._fixed
        if fixed and stream:
            return fixed
        estimate = self._estimates.get((operation, stream))
        wait = None if estimate is None else estimate.wait()
        return None if wait is None else max(wait, fixed)

    def observe(self, operation: str, stream: bool, seconds: float) -> None:
        """Take note of how long an answer took to begin, from the request being sent."""
        kind = (operation, stream)
        estimate = self._estimates.get(kind)
        if estimate is None:
            estimate = self._estimates[kind] = Estimate(self._percentile)
        estimate.observe(seconds)

    @property
    def may(self) -> bool:
        """Whether the budget allows another second attempt."""
        return self._credit >= 1.0

    def take(self) -> None:
        """Spend one second attempt of the budget."""
        self._credit -= 1.0
