"""Choices among targets: fair by load and weight, pure and repeatable."""

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest

from gateway.balance.basic import LeastLoaded, RoundRobin


@dataclass
class Location:
    weight: int = 1
    in_flight: int = 0


def test_the_least_loaded_is_chosen() -> None:
    assert (
        LeastLoaded(Random(1)).choose([Location(in_flight=3), Location(in_flight=1), Location(in_flight=2)])
        == 1
    )


def test_equals_share_by_chance() -> None:
    balancer, places = LeastLoaded(Random(1)), [Location(), Location(), Location()]
    counts = Counter(balancer.choose(places) for _ in range(3000))
    assert all(count == pytest.approx(1000, rel=0.15) for count in counts.values())


def test_a_weight_of_three_takes_three_times_the_load() -> None:
    balancer, places = LeastLoaded(Random(1)), [Location(weight=3), Location(weight=1)]
    for _ in range(40):
        places[balancer.choose(places)].in_flight += 1
    assert [place.in_flight for place in places] == [30, 10]


def test_round_robin_takes_turns_by_weight_evenly_spread() -> None:
    balancer, places = RoundRobin(), [Location(weight=3), Location(weight=1)]
    assert [balancer.choose(places) for _ in range(8)] == [0, 0, 1, 0, 0, 0, 1, 0]


def test_round_robin_goes_on_when_a_target_is_left_out() -> None:
    balancer, (a, b, c) = RoundRobin(), (Location(), Location(), Location())
    first = [balancer.choose([a, b, c]) for _ in range(3)]
    assert sorted(first) == [0, 1, 2]
    assert {balancer.choose([a, c]) for _ in range(2)} == {0, 1}
