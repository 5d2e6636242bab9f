"""What a balancer remembers when the targets of its model are made anew, come or go."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.balance.basic import RoundRobin
from tests.balance.candidates import Candidate

Weights = dict[str, int]

WEIGHTS: st.SearchStrategy[Weights] = st.dictionaries(
    st.sampled_from("abcdefg"), st.integers(1, 5), min_size=1
)


def candidates(weights: Weights) -> list[Candidate]:
    return [Candidate(weight, name=name) for name, weight in weights.items()]


def turns(balancer: RoundRobin, weights: Weights, count: int) -> list[str]:
    """Choose so many times among targets that are made anew each time."""
    found = []
    for _ in range(count):
        targets = candidates(weights)
        found.append(targets[balancer.choose(targets, None, 0.0)].name)
    return found


@given(WEIGHTS, st.integers(0, 20), st.integers(0, 20))
def test_new_targets_of_the_same_names_continue_the_rotation(
    weights: Weights, before: int, after: int
) -> None:
    one, other, targets = RoundRobin(), RoundRobin(), candidates(weights)
    expected = [targets[other.choose(targets, None, 0.0)].name for _ in range(before + after)]
    found = turns(one, weights, before)
    one.keep(weights.keys())
    assert found + turns(one, weights, after) == expected


@given(st.lists(st.tuples(WEIGHTS, st.integers(0, 30)), max_size=6), WEIGHTS)
def test_whatever_was_before_the_weights_of_now_are_kept(
    history: list[tuple[Weights, int]], now: Weights
) -> None:
    """After any reloads, over whole rounds, each target gets its share of the turns, give or take what was owed."""
    balancer = RoundRobin()
    for weights, count in history:
        balancer.keep(weights.keys())
        turns(balancer, weights, count)
    balancer.keep(now.keys())
    rounds = 40
    counts = Counter(turns(balancer, now, rounds * sum(now.values())))
    owed = 2 * max([*now.values(), *(sum(weights.values()) for weights, _ in history)])
    for name, weight in now.items():
        assert abs(counts[name] - rounds * weight) <= owed


def test_a_target_that_left_is_forgotten() -> None:
    balancer = RoundRobin()
    turns(balancer, {"a": 1, "b": 5}, 1)
    balancer.keep({"a"})
    balancer.keep({"a", "b"})
    fresh = RoundRobin()
    fresh_turns = turns(fresh, {"b": 5}, 1)
    assert fresh_turns == ["b"]
    assert balancer._credit.keys() == {"a"}
