"""What is read of an engine's metrics page: which lines are kept, what they add up to, and what is not believed."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Signal
from backends.facts import metrics
from backends.facts.metrics import measured
from backends.framing.prometheus import Sieve
from backends.metrics import (
    Buckets,
    Counted,
    Finish,
    Measured,
    Metric,
    MetricsTable,
    Outcomes,
    Timing,
)

TABLE = MetricsTable(
    counts={
        Counted.PROMPT_TOKENS: (Metric("x:prompts_total", "2"), Metric("x:asked_total", "1")),
        Counted.GENERATION_TOKENS: (Metric("x:new_total", "all", plus="x:more_total"),),
        Counted.PREEMPTIONS: (Metric("x:back_total", "all", {"stage": "0"}),),
    },
    finished=(
        Outcomes(
            "x:ended_total", "all", "reason", {"eos": Finish.STOP, "limit": Finish.LENGTH}, Finish.ERROR
        ),
        Outcomes("x:refused_total", "2", other=Finish.REJECTED),
    ),
    timings={Timing.QUEUE: (Metric("x:queue_seconds", "all"),)},
)


def told(page: str, table: MetricsTable = TABLE) -> Measured:
    """Return what a page tells, of which only the wanted lines were kept."""
    wanted = metrics.page("/metrics", table)
    sieve = Sieve(wanted.names)
    sieve.feed(page.encode())
    kept = measured(sieve.close(), wanted.table)
    assert kept == measured(page.encode(), wanted.table)
    return kept


def histogram(labels: str, *cumulative: float, total: str = "2.5", count: str | None = None) -> str:
    """Return a histogram with the bounds 0.5, 1 and infinity."""
    lines = [
        f'x:queue_seconds_bucket{{{labels}le="{bound}"}} {value}'
        for bound, value in zip(("0.5", "1.0", "+Inf"), cumulative, strict=True)
    ]
    bare = "{" + labels.rstrip(",") + "}" if labels else ""
    last = cumulative[-1] if count is None else count
    return "\n".join(
        [*lines, f"x:queue_seconds_sum{bare} {total}", f"x:queue_seconds_count{bare} {last}", ""]
    )


def test_counters_are_summed_over_ranks_and_the_newest_name_counts() -> None:
    page = 'x:prompts_total{rank="0"} 3.0\nx:prompts_total{rank="1"} 4\nx:asked_total 100\n'
    assert told(page).counts == {Counted.PROMPT_TOKENS: 7}
    assert told("x:asked_total 100\n").counts == {Counted.PROMPT_TOKENS: 100}


def test_a_value_that_needs_two_counters_needs_both() -> None:
    assert told("x:new_total 3\nx:more_total 4\n").counts == {Counted.GENERATION_TOKENS: 7}
    assert told("x:new_total 3\n").counts == {}
    assert told("x:more_total 3\n").counts == {}


def test_only_samples_with_the_labels_count() -> None:
    assert told('x:back_total{stage="0"} 2\nx:back_total{stage="1"} 2\n').counts == {Counted.PREEMPTIONS: 2}
    assert told('x:back_total{stage="1"} 2\n').counts == {}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "x"])
def test_a_counter_that_cannot_be_right_is_left_out(value: str) -> None:
    assert told(f'x:prompts_total{{rank="0"}} {value}\nx:prompts_total{{rank="1"}} 4\n').counts == {}
    page = f'x:ended_total{{reason="eos"}} 1\nx:ended_total{{reason="limit"}} {value}\n'
    assert told(page).finished == {Finish.STOP: 1}


def test_a_zero_is_told_and_nothing_is_not_zero() -> None:
    assert told("x:prompts_total 0\n").counts == {Counted.PROMPT_TOKENS: 0}
    assert told("") == Measured()


def test_ends_are_added_by_what_they_mean() -> None:
    page = (
        'x:ended_total{reason="eos",rank="0"} 1\nx:ended_total{reason="eos",rank="1"} 2\n'
        'x:ended_total{reason="limit"} 4\nx:ended_total{reason="oom"} 8\nx:ended_total{reason="bug"} 16\n'
        "x:refused_total 32\n"
    )
    assert told(page).finished == {
        Finish.STOP: 3, Finish.LENGTH: 4, Finish.ERROR: 24, Finish.REJECTED: 32,
    }  # fmt: skip


def test_histograms_with_the_same_buckets_are_summed() -> None:
    page = histogram('rank="0",', 1, 3, 4) + histogram('rank="1",', 0, 0, 1, total="9")
    assert told(page).timings == {Timing.QUEUE: Buckets((0.5, 1.0), (1, 2, 2), 11.5)}
    assert told(histogram("", 0, 0, 0, total="0")).timings == {
        Timing.QUEUE: Buckets((0.5, 1.0), (0, 0, 0), 0)
    }


@pytest.mark.parametrize(
    "page",
    [
        histogram("", 3, 1, 4),
        histogram("", 1, 3, math.nan),
        histogram("", -1, 3, 4),
        histogram("", 1, 3, 4, total="NaN"),
        histogram("", 1, 3, 4, count="5"),
        histogram("", 1, 3, 4).replace("+Inf", "2.0"),
        histogram("", 1, 3, 4).replace("0.5", "half"),
        histogram("", 1, 3, 4).replace("_sum", "_summ"),
        histogram('rank="0",', 1, 3, 4) + histogram('rank="1",', 1, 3, 4).replace("0.5", "0.25"),
        histogram('rank="0",', 1, 3, 4) + histogram('rank="1",', 3, 1, 4),
    ],
    ids=[
        *("buckets shrink", "no number", "negative", "no sum", "another count", "no last bucket"),
        *("no bound", "sum is not there", "other buckets", "one of two is wrong"),
    ],
)
def test_a_histogram_that_cannot_be_right_is_left_out(page: str) -> None:
    assert told(page).timings == {}


LINES = [
    *("# HELP x:prompts_total Tokens.", "# TYPE x:prompts_total counter", "", "x:prompts_total 1"),
    *(
        'x:prompts_total{a="b"} 2.0',
        'x:prompts_total{a="{ }"} 2.0 1700000000',
        'x:prompts_total_created{a="b"} 5',
    ),
    *("other 1", 'y:prompts_total{name="x:prompts_total 7"} 1', "x:prompts_totality 1"),
    *('x:queue_seconds_bucket{le="+Inf"} 3', "x:queue_seconds_sum 1", "x:queue_seconds 9"),
]


@given(
    st.lists(st.sampled_from(LINES), max_size=12), st.lists(st.integers(0, 400), max_size=6), st.booleans()
)
def test_what_is_kept_does_not_depend_on_how_the_bytes_come(
    lines: list[str], cuts: list[int], ended: bool
) -> None:
    names = metrics.page("/metrics", TABLE).names
    page = "\n".join(lines).encode() + b"\n" * ended
    sieve = Sieve(names)
    for start, end in itertools.pairwise([0, *sorted(cuts), len(page) + 400]):
        sieve.feed(page[start:end])
    wanted = [line.encode() for line in lines if line.split("{")[0].split(" ")[0].encode() in names]
    assert sieve.close() == b"".join(line + b"\n" for line in wanted)


def test_more_wanted_lines_than_the_limit_are_none() -> None:
    names = metrics.page("/metrics", TABLE).names
    line = b"x:prompts_total 1\n"
    for page, limit, too_long in ((line * 10, 180, False), (line * 10, 179, True), (b"y" * 181, 180, True)):
        sieve = Sieve(names, limit)
        for byte in page:
            sieve.feed(bytes([byte]))
        assert sieve.too_long is too_long
        assert sieve.close() == (b"" if too_long else page)


@given(st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=40)), max_size=8))
def test_any_page_tells_something_or_nothing(lines: list[str]) -> None:
    found = measured("\n".join(lines).encode(), TABLE)
    values = [*found.counts.values(), *found.finished.values()]
    values += [value for timing in found.timings.values() for value in (*timing.counts, timing.sum)]
    assert all(math.isfinite(value) and value >= 0 for value in values)


def test_the_names_of_signals_are_kept_too() -> None:
    table = {Signal.PREFIX_HITS: (Metric("x:hits", "2", per="x:queries"), Metric("x:found", "1"))}
    names = metrics.page("/metrics", MetricsTable(), [table], ["x:info"]).names
    assert names == {b"x:hits", b"x:queries", b"x:found", b"x:info"}
