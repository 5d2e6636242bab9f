"""A live percentile is right to a tenth of itself, whatever is observed."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.percentile import Durations

SECONDS = st.floats(0.001, 3_600.0)


@given(st.lists(SECONDS, min_size=1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_it_is_exact_to_a_tenth(seconds: list[float], share: float) -> None:
    durations = Durations()
    for each in seconds:
        durations.observe(each)
    ordered = sorted(seconds)
    # Those beyond it are at most a share of `1 - share`; rounding may move the border by one.
    place = min(len(seconds) - 1, math.floor(share * len(seconds) + 1e-9))
    found = durations.percentile(share)
    near = {ordered[max(0, place - 1)], ordered[place]}
    assert any(each * 0.999 <= found <= each * 1.101 for each in near)


@given(st.lists(SECONDS), SECONDS)
def test_it_counts_what_was_clearly_longer(seconds: list[float], limit: float) -> None:
    durations = Durations()
    for each in seconds:
        durations.observe(each)
    found = durations.above(limit)
    assert sum(each > limit * 1.101 for each in seconds) <= found <= sum(each > limit for each in seconds)


def test_what_fades_counts_half() -> None:
    durations = Durations()
    for _ in range(100):
        durations.observe(10.0)
    for _ in range(6):
        durations.fade()
    for _ in range(100):
        durations.observe(0.1)
    assert durations.total == 100 + 100 / 64
    assert 0.1 <= durations.percentile(0.95) <= 0.11
    assert 10.0 <= durations.percentile(0.995) <= 11.0


def test_nothing_observed_is_no_time_at_all() -> None:
    assert Durations().percentile(0.95) == 0.0


def test_what_is_too_short_or_too_long_is_counted() -> None:
    durations = Durations()
    durations.observe(0.0)
    assert durations.percentile(0.95) == 0.001
    durations.observe(1e9)
    assert durations.percentile(0.95) > 3_600
    assert durations.total == 2
