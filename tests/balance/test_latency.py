"""The time to the first token decides: peaks at once, recovery slowly, the unknown with care."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.balance.latency import DECAY, Latency, PeakEwma
from tests.balance.candidates import Candidate, named


def counts(balancer: Latency, targets: list[Candidate], now: float, requests: int = 1000) -> Counter[str]:
    return Counter(targets[balancer.choose(targets, None, now)].name for _ in range(requests))


def test_the_faster_of_two_takes_the_requests() -> None:
    balancer, targets = Latency(Random(1)), named("ab")
    balancer.answered("a", 2.0, 0.0)
    balancer.answered("b", 1.0, 0.0)
    assert counts(balancer, targets, 0.0) == {"b": 1000}


def test_requests_under_way_weigh() -> None:
    balancer, targets = Latency(Random(1)), named("ab")
    balancer.answered("a", 2.0, 0.0)
    balancer.answered("b", 1.0, 0.0)
    targets[1].in_flight = 3
    assert counts(balancer, targets, 0.0) == {"a": 1000}


def test_a_peak_counts_at_once_and_is_forgiven_slowly() -> None:
    times = PeakEwma()
    times.add(1.0, 0.0)
    times.add(9.0, 0.1)
    assert times.at(0.1) == 9.0
    times.add(1.0, 0.2)
    assert 8.5 < times.at(0.2) < 9.0
    for second in range(1, 60):
        times.add(1.0, float(second))
    assert times.at(59.0) == pytest.approx(1.0, abs=0.1)


def test_who_was_slow_is_tried_again_after_a_while() -> None:
    balancer, targets = Latency(Random(1)), named("ab")
    balancer.answered("a", 60.0, 0.0)
    for second in range(120):
        balancer.answered("b", 1.0, float(second))
    assert counts(balancer, targets, 5.0)["a"] == 0
    assert counts(balancer, targets, 119.0)["a"] > 0


def test_of_the_unknown_one_is_asked_at_a_time() -> None:
    balancer, targets = Latency(Random(1)), named("ab")
    balancer.answered("a", 1.0, 0.0)
    assert counts(balancer, targets, 0.0) == {"b": 1000}
    targets[1].in_flight = 1
    assert counts(balancer, targets, 0.0) == {"a": 1000}


def test_a_wait_in_vain_makes_slow_and_never_fast() -> None:
    balancer, targets = Latency(Random(1)), named("ab")
    for name in "ab":
        balancer.answered(name, 1.0, 0.0)
    balancer.waited("a", 0.001, 0.0)
    assert balancer.cost(targets[0], 0.0) == 1.0, "who fails fast is not fast"
    balancer.waited("a", 30.0, 0.0)
    assert balancer.cost(targets[0], 0.0) == 30.0


def test_a_target_that_left_is_forgotten() -> None:
    balancer, targets = Latency(Random(1)), named("ab")
    balancer.answered("a", 9.0, 0.0)
    balancer.answered("b", 1.0, 0.0)
    balancer.keep({"b"})
    assert balancer.cost(targets[0], 0.0) == 0.0
    assert balancer.cost(targets[1], 0.0) == 1.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 3 * DECAY)), min_size=1))
def test_an_average_lies_between_nothing_and_the_worst(history: list[tuple[float, float]]) -> None:
    times, now = PeakEwma(), 0.0
    for seconds, wait in history:
        now += wait
        before = times.at(now)
        times.add(seconds, now)
        assert 0.0 <= times.at(now) <= max(seconds for seconds, _ in history)
        assert times.at(now) >= min(seconds, before) - 1e-6
