"""What engines measure of themselves, as values: one name and one meaning for all engines, whatever each calls it.

Rules:
- What an engine does not tell, or tells in a way that cannot be right, is not there. It is never 0 instead.
- A counter is passed on as the engine counts, and begins anew when the engine does.
- Buckets are the engine's own. Durations are in seconds.
- Everybody but tables and their readers imports these from `backends.base`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class Counted(enum.StrEnum):
    """What engines count of their work."""

    PROMPT_TOKENS = "prompt_tokens"
    """Tokens of prompts, those taken from a cache included."""
    PROMPT_TOKENS_CACHED = "prompt_tokens_cached"
    """Those of them that were taken from a cache and not computed."""
    GENERATION_TOKENS = "generation_tokens"
    """Tokens of answers."""
    DRAFTED_TOKENS = "drafted_tokens"
    """Tokens that were guessed ahead, by speculative decoding."""
    ACCEPTED_TOKENS = "accepted_tokens"
    """Those of them that the model accepted."""
    PREEMPTIONS = "preemptions"
    """How often a request that ran was put back, because there was no memory left for it."""


class Finish(enum.StrEnum):
    """How a request ended at an engine."""

    STOP = "stop"
    """The model ended by itself, or at what the client named as an end."""
    LENGTH = "length"
    COMPLETE = "complete"
    """One of the two: the engine does not say which."""
    ABORT = "abort"
    """The client left, or somebody cancelled it."""
    REJECTED = "rejected"
    """It was never begun: the queue was full, or the request was wrong."""
    ERROR = "error"
    UNKNOWN = "unknown"
    """The engine does not say how."""


class Timing(enum.StrEnum):
    """Of which durations engines keep a histogram."""

    FIRST_TOKEN = "time_to_first_token_seconds"
    """From a request's arrival at the engine to the first token."""
    BETWEEN_TOKENS = "time_between_tokens_seconds"
    """From one token, or several that came at once, to the next; one observation for each."""
    PER_TOKEN = "time_per_output_token_seconds"
    """The mean of one request's time between tokens; one observation for each request."""
    REQUEST = "request_duration_seconds"
    """From a request's arrival at the engine to the last token."""
    QUEUE = "queue_time_seconds"
    """From a request's arrival at the engine until it is computed."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram: how many observations lie in each bucket, and the sum of all observations.

    `counts` is not cumulative, and has one more member than `bounds`: what is larger than all of them.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What an engine has told of itself at one time."""

    counts: Mapping[Counted, float] = field(default_factory=dict)
    finished: Mapping[Finish, float] = field(default_factory=dict)
    timings: Mapping[Timing, Buckets] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """A name under which an engine publishes something, and the `versions` that use it.

    A sample counts if it has all `labels`. `combine` makes one value of several samples (one for each model, rank or
    worker); counters are always summed. `per` names a second metric to divide by, for a fraction of two counters, and
    `plus` one to add, without which there is no value.
    """

    name: str
    versions: str
    labels: Mapping[str, str] = field(default_factory=dict)
    combine: Callable[[list[float]], float] = sum
    per: str | None = None
    plus: str | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A counter of finished requests, and the `versions` that have it.

    `reasons` are the values of its `label`; any other value, and a counter without a label, means `other`.
    """

    name: str
    versions: str
    label: str = ""
    reasons: Mapping[str, Finish] = field(default_factory=dict)
    other: Finish = Finish.UNKNOWN


@dataclass(frozen=True, slots=True)
class MetricsTable:
    """Under which names an engine publishes what it measures, the newest name first.

    All `finished` that are on the page are added; of the others the first one counts that is there.
    """

    counts: Mapping[Counted, tuple[Metric, ...]] = field(default_factory=dict)
    finished: tuple[Outcomes, ...] = ()
    timings: Mapping[Timing, tuple[Metric, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """An engine's own page in Prometheus' text format; `backends.facts.metrics.page` makes it.

    `path` is also that of one of `Engine.signal_calls`, so that one answer serves both. `names` are the samples that
    are read of it: every other line is left out before `Engine.signals_of` sees the page.
    """

    path: str
    names: frozenset[bytes]
    table: MetricsTable
