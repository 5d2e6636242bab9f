"""Choices among targets: fair by load and weight, pure and repeatable."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest

from gateway.balance.basic import LeastLoaded, RoundRobin

NUMBERS = count()


@dataclass
class Candidate:
    """A target as far as a balancer looks at it."""

    weight: float = 1
    in_flight: int = 0
    name: str = field(default_factory=lambda: f"backend-{next(NUMBERS)}")


def test_the_least_loaded_is_chosen() -> None:
    assert (
        LeastLoaded(Random(1)).choose(
            [Candidate(in_flight=3), Candidate(in_flight=1), Candidate(in_flight=2)]
        )
        == 1
    )


def test_equals_share_by_chance() -> None:
    balancer, candidates = LeastLoaded(Random(1)), [Candidate(), Candidate(), Candidate()]
    counts = Counter(balancer.choose(candidates) for _ in range(3000))
    assert all(count == pytest.approx(1000, rel=0.15) for count in counts.values())


def test_a_weight_of_three_takes_three_times_the_load() -> None:
    balancer, candidates = LeastLoaded(Random(1)), [Candidate(weight=3), Candidate(weight=1)]
    for _ in range(40):
        candidates[balancer.choose(candidates)].in_flight += 1
    assert [candidate.in_flight for candidate in candidates] == [30, 10]


def test_round_robin_takes_turns_by_weight_evenly_spread() -> None:
    balancer, candidates = RoundRobin(), [Candidate(weight=3), Candidate(weight=1)]
    assert [balancer.choose(candidates) for _ in range(8)] == [0, 0, 1, 0, 0, 0, 1, 0]


def test_round_robin_goes_on_when_a_target_is_left_out() -> None:
    balancer, (a, b, c) = RoundRobin(), (Candidate(), Candidate(), Candidate())
    first = [balancer.choose([a, b, c]) for _ in range(3)]
    assert sorted(first) == [0, 1, 2]
    assert {balancer.choose([a, c]) for _ in range(2)} == {0, 1}
