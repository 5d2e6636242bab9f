"""How fast a gate is: measured while somebody waits, unknown before, and slower the longer nothing happens."""

from __future__ import annotations

from random import Random

import pytest

from gateway.admission.pace import ENOUGH, OLD, UNKNOWN, Pace


def measured(interval: float, count: int = 50, slots: int = 4) -> tuple[Pace, float]:
    """Return a pace after so many entries at this interval, and the time of the last one."""
    pace, now = Pace(), 100.0
    pace.begin(now)
    for _ in range(count):
        now += interval
        pace.entered(now, slots)
    return pace, now


def test_nothing_is_known_before_enough_was_measured() -> None:
    for count in range(ENOUGH + 1):
        pace, now = measured(0.5, count)
        assert pace.interval(now) == UNKNOWN, "the first entry begins the first interval"
    pace, now = measured(0.5, ENOUGH + 1)
    assert pace.interval(now) == pytest.approx(0.5)


def test_a_burst_for_each_round_of_the_slots_is_the_same_pace() -> None:
    pace, now = Pace(), 0.0
    pace.begin(now)
    for _ in range(50):
        now += 8.0
        for _ in range(16):
            pace.entered(now, 16)
    assert pace.interval(now) == pytest.approx(0.5, rel=0.15)


def test_what_chance_does_to_the_estimate_is_known() -> None:
    even, _ = measured(0.5)
    assert even.doubt(100) == pytest.approx(0.0, abs=1e-6)
    rng, pace, now = Random(1), Pace(), 0.0
    for _ in range(500):
        now += rng.expovariate(2.0)
        pace.entered(now, 64)
    assert pace.doubt(100) == pytest.approx(5.0, rel=0.3), "ten intervals of half a second"
    assert Pace().doubt(100) == 0.0


def test_an_engine_that_has_become_slow_is_noticed() -> None:
    pace, now = measured(0.1)
    for _ in range(40):
        now += 1.0
        pace.entered(now, 4)
    assert pace.interval(now) > 0.9


def test_an_engine_that_lets_nobody_in_gets_slower_by_itself() -> None:
    pace, now = measured(0.1)
    assert pace.interval(now + 0.1) == pytest.approx(0.1, rel=0.01)
    assert pace.interval(now + 60.0) > 1.0


def test_time_in_which_nobody_waits_is_not_counted() -> None:
    pace, now = measured(0.5)
    pace.rest(now)
    assert pace.interval(now + 30.0) == pytest.approx(0.5)
    pace.begin(now + 30.0)
    pace.entered(now + 30.1, 4)
    assert pace.interval(now + 30.1) == pytest.approx(0.5)


def test_what_was_measured_long_ago_is_forgotten() -> None:
    pace, now = measured(0.5)
    pace.rest(now)
    pace.begin(now + OLD + 1.0)
    assert pace.interval(now + OLD + 1.0) == UNKNOWN
