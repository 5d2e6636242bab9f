"""Choices by load, weight and chance: fair, and the same again with the same chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.balance.basic import Chance, LeastLoaded, RoundRobin, TwoChoices
from gateway.balance.bound import Bound
from gateway.balance.latency import Latency
from gateway.balance.loaded import Balancer
from gateway.balance.prefix import Prefix
from gateway.balance.session import Session
from gateway.balance.sessions import Source
from tests.balance.candidates import Candidate, chat, outcomes

MAKE: dict[str, Callable[[Random], Balancer]] = {
    "least_loaded": LeastLoaded,
    "round_robin": lambda rng: RoundRobin(),
    "random": lambda rng: Chance(rng, by_weight=False),
    "weighted": lambda rng: Chance(rng, by_weight=True),
    "power_of_two": TwoChoices,
    "latency": Latency,
    "prefix": lambda rng: Prefix(Bound(1.25, 4), outcomes(), rng),
    "session": lambda rng: Session((Source("agent"),), Bound(1.25, 4), outcomes(), rng),
}
"""Every policy, made as the config's defaults say."""
BY_WEIGHT = sorted(MAKE.keys() - {"random"})


def shares(balancer: Balancer, targets: list[Candidate], requests: int, at_once: int) -> list[int]:
    """Return how many requests each target got, with so many at once; each ends in the order in which it came."""
    counts, running = [0] * len(targets), []
    for _ in range(requests):
        index = balancer.choose(targets, None, 0.0)
        targets[index].in_flight += 1
        counts[index] += 1
        running.append(index)
        if len(running) > at_once:
            targets[running.pop(0)].in_flight -= 1
    return counts


def test_the_least_loaded_is_chosen() -> None:
    targets = [Candidate(in_flight=3), Candidate(in_flight=1), Candidate(in_flight=2)]
    assert LeastLoaded(Random(1)).choose(targets, None, 0.0) == 1


def test_equals_share_by_chance() -> None:
    balancer, candidates = LeastLoaded(Random(1)), [Candidate(), Candidate(), Candidate()]
    counts = Counter(balancer.choose(candidates, None, 0.0) for _ in range(3000))
    assert all(count == pytest.approx(1000, rel=0.15) for count in counts.values())


def test_a_weight_of_three_takes_three_times_the_load() -> None:
    balancer, candidates = LeastLoaded(Random(1)), [Candidate(weight=3), Candidate(weight=1)]
    for _ in range(40):
        candidates[balancer.choose(candidates, None, 0.0)].in_flight += 1
    assert [candidate.in_flight for candidate in candidates] == [30, 10]


def test_round_robin_takes_turns_by_weight_evenly_spread() -> None:
    balancer, candidates = RoundRobin(), [Candidate(weight=3), Candidate(weight=1)]
    assert [balancer.choose(candidates, None, 0.0) for _ in range(8)] == [0, 0, 1, 0, 0, 0, 1, 0]


def test_round_robin_goes_on_when_a_target_is_left_out() -> None:
    balancer, (a, b, c) = RoundRobin(), (Candidate(), Candidate(), Candidate())
    first = [balancer.choose([a, b, c], None, 0.0) for _ in range(3)]
    assert sorted(first) == [0, 1, 2]
    assert {balancer.choose([a, c], None, 0.0) for _ in range(2)} == {0, 1}


@pytest.mark.parametrize("policy", BY_WEIGHT)
@pytest.mark.parametrize("at_once", [0, 30], ids=["one after the other", "many at once"])
def test_requests_are_shared_by_weight(policy: str, at_once: int) -> None:
    targets = [Candidate(weight=1), Candidate(weight=2), Candidate(weight=5)]
    counts = shares(MAKE[policy](Random(1)), targets, 8000, at_once)
    slack = 0.35 if policy in ("power_of_two", "latency") else 0.1
    # Two that are drawn of three include the smallest too often where loads are compared, and only then.
    assert counts == [pytest.approx(part, rel=slack) for part in (1000, 2000, 5000)]


def test_random_minds_no_weights_but_a_slow_start() -> None:
    targets = [Candidate(weight=1), Candidate(weight=5), Candidate(weight=0.2, share=2)]
    counts = shares(Chance(Random(1), by_weight=False), targets, 4200, 0)
    assert counts == [pytest.approx(2000, rel=0.1), pytest.approx(2000, rel=0.1), pytest.approx(200, rel=0.2)]


@pytest.mark.parametrize("policy", sorted(MAKE))
@given(
    weights=st.lists(st.sampled_from([0.1, 1.0, 3.0, 10.0]), min_size=1, max_size=6),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_the_same_chance_gives_the_same_choices(
    policy: str, weights: list[float], seed: int, data: st.DataObject
) -> None:
    loads = data.draw(st.lists(st.integers(0, 20), min_size=len(weights), max_size=len(weights)))
    targets = [
        Candidate(weight, load, f"t{index}")
        for index, (weight, load) in enumerate(zip(weights, loads, strict=True))
    ]
    prompts = [chat("a" * 300, "b", f"c{number % 3}") for number in range(6)]
    one, other = (MAKE[policy](Random(seed)) for _ in range(2))
    found = [one.choose(targets, prompt, 0.0) for prompt in prompts]
    assert found == [other.choose(targets, prompt, 0.0) for prompt in prompts]
    assert all(0 <= index < len(targets) for index in found)


@pytest.mark.parametrize("policy", sorted(MAKE))
def test_nobody_starves(policy: str) -> None:
    """Every target gets requests, however few its weight gives it, while requests come and go."""
    targets = [Candidate(weight=0.1), *[Candidate() for _ in range(5)]]
    assert min(shares(MAKE[policy](Random(3)), targets, 4000, 12)) > 0


@pytest.mark.parametrize("policy", sorted(MAKE))
def test_a_tie_is_not_always_the_first_one(policy: str) -> None:
    firsts = set()
    for seed in range(20):
        balancer, targets = MAKE[policy](Random(seed)), [Candidate() for _ in range(4)]
        # The first turn of a rotation is the same whoever asks: only the turns after it differ.
        turns = 2 if policy == "round_robin" else 1
        firsts |= {balancer.choose(targets, None, 0.0) for _ in range(turns)}
    assert len(firsts) > 1


@pytest.mark.parametrize("policy", sorted(MAKE))
def test_loads_that_are_stuck_at_nothing_do_not_gather_everything_at_one(policy: str) -> None:
    """No load is ever seen, as where counters fail: requests are spread all the same."""
    balancer, targets = MAKE[policy](Random(2)), [Candidate() for _ in range(4)]
    counts = Counter(balancer.choose(targets, chat(f"question {number}"), 0.0) for number in range(400))
    assert max(counts.values()) < 200 and len(counts) == 4


def test_of_two_the_less_loaded_is_taken_and_the_worst_never() -> None:
    targets = [Candidate(in_flight=load) for load in (9, 4, 2, 0)]
    balancer = TwoChoices(Random(1))
    counts = Counter(balancer.choose(targets, None, 0.0) for _ in range(1200))
    assert counts[0] == 0
    assert counts[3] == pytest.approx(600, rel=0.15)


def test_others_requests_count_as_load() -> None:
    """What an engine tells of requests that are not ours keeps ours away; see `Target.load`."""
    targets = [Candidate(in_flight=2), Candidate(in_flight=1.5)]
    for make in (LeastLoaded, TwoChoices):
        assert make(Random(1)).choose(targets, None, 0.0) == 1
