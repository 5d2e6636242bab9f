"""Prompts that begin alike go to the backend that has their beginning; what other routers got wrong here is tested.

Rules:
- A backend's cache is not played: the test knows which requests went where, and so what is where.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.asked import Asked
from gateway.balance.bound import Bound
from gateway.balance.prefix import Prefix
from gateway.balance.prompt import starts
from tests.balance.candidates import Candidate, chat, named, outcomes

SYSTEM = "You are an agent with very many rules. " * 100


def make(seed: int = 1, factor: float = 1.25, floor: int = 4) -> Prefix:
    return Prefix(Bound(factor, floor), outcomes(), Random(seed))


def turn(user: object, number: int, system: str = "") -> Asked:
    """Return the request of one turn of a user's conversation."""
    turns = [f"user {user} says {index} " * 30 for index in range(2 * number + 1)]
    return chat(*turns, system=system)


def test_a_conversation_stays_and_says_so() -> None:
    balancer, targets = make(), named("abcd")
    homes = {user: balancer.choose(targets, turn(user, 0), 0.0) for user in range(20)}
    assert balancer.note == "miss"
    for number in range(1, 5):
        for user, home in homes.items():
            assert balancer.choose(targets, turn(user, number), 0.0) == home
            assert balancer.note == "hit"
    assert set(homes.values()) == {0, 1, 2, 3}
    numbers = balancer._outcomes
    assert (numbers.hit.value, numbers.miss.value, numbers.moved.value) == (80, 20, 0)


def test_a_system_prompt_that_all_share_does_not_gather_all_at_one_backend() -> None:
    balancer, targets = make(), named("abcd")
    counts = Counter(balancer.choose(targets, turn(user, 0, SYSTEM), 0.0) for user in range(200))
    assert all(count == pytest.approx(50, rel=0.4) for count in counts.values())
    for user in range(200, 220):
        home = balancer.choose(targets, turn(user, 0, SYSTEM), 0.0)
        assert balancer.choose(targets, turn(user, 1, SYSTEM), 0.0) == home


def test_a_system_prompt_that_few_share_stays_where_it_is() -> None:
    """As where a document stands in the system prompt, and a few questions follow."""
    balancer, targets, places = make(), named("abcd"), dict[int, set[int]]()
    for question in range(6):
        for document in range(40):
            request = chat(f"question {question}", system=f"document {document} " * 400)
            places.setdefault(document, set()).add(balancer.choose(targets, request, 0.0))
    alone = [document for document, found in places.items() if len(found) == 1]
    assert len(alone) >= 38


def test_what_goes_on_from_one_place_at_once_stays_together() -> None:
    balancer, targets = make(), named("abcd")
    home = balancer.choose(targets, turn("u", 3), 0.0)
    for number in range(5):
        task = chat(*[f"user u says {index} " * 30 for index in range(7)], "yes", f"task {number}")
        assert balancer.choose(targets, task, 0.0) == home


def test_a_miss_is_not_always_the_same_backend() -> None:
    """One request at a time, nothing known: a smallest tree, or the first of equals, would take them all."""
    balancer, targets = make(), named("abcd")
    counts = Counter(balancer.choose(targets, chat(f"{number} " * 300), 0.0) for number in range(400))
    assert all(count == pytest.approx(100, rel=0.3) for count in counts.values())


def test_a_backend_that_knows_little_gets_no_more_than_others() -> None:
    """The death spiral: the backend with the fewest prompts in memory is not the one with the least to do."""
    balancer, targets = make(), named("ab")
    for number in range(50):
        balancer.choose(targets[:1], chat(f"{number} " * 300), 0.0)
    targets[1].in_flight = 9
    counts = Counter(balancer.choose(targets, chat(f"new {number} " * 300), 0.0) for number in range(50))
    assert counts[0] > 45


def test_the_least_loaded_of_those_that_know_a_prompt_takes_it() -> None:
    balancer, targets = make(floor=10), named("abc")
    for target in targets[:2]:
        balancer.choose([target], turn("u", 2), 0.0)
    targets[0].in_flight = 3
    targets[1].in_flight = 2
    assert balancer.choose(targets, turn("u", 2), 0.0) == 1
    targets[1].in_flight = 4
    assert balancer.choose(targets, turn("u", 2), 0.0) == 0


def test_the_longest_start_decides() -> None:
    balancer, targets = make(floor=10), named("ab")
    balancer.choose(targets[:1], turn("u", 1), 0.0)
    balancer.choose(targets[1:], turn("u", 6), 0.0)
    targets[1].in_flight = 3
    assert balancer.choose(targets, turn("u", 7), 0.0) == 1


def test_affinity_gives_way_to_load_and_comes_back() -> None:
    balancer, targets = make(floor=2), named("abcd")
    home = balancer.choose(targets, turn("u", 0), 0.0)
    targets[home].in_flight = 2
    other = balancer.choose(targets, turn("u", 1), 0.0)
    assert other != home and balancer.note == "moved"
    targets[home].in_flight = 0
    assert balancer.choose(targets, turn("u", 2), 0.0) == other, "it has more of the prompt now"


def test_a_backend_that_restarted_knows_nothing() -> None:
    balancer, targets = make(), named("abcd")
    home = balancer.choose(targets, turn("u", 0), 0.0)
    targets[home].life += 1
    targets[home].in_flight = 1
    assert balancer.choose(targets, turn("u", 1), 0.0) != home
    assert balancer.note == "miss"


def test_a_backend_that_left_is_not_asked_for_and_may_come_back() -> None:
    balancer, targets = make(), named("abcd")
    home = balancer.choose(targets, turn("u", 0), 0.0)
    rest = [target for target in targets if target is not targets[home]]
    for user in range(50):
        balancer.choose(rest, turn(user, 0), 0.0)
    balancer.keep({target.name for target in rest})
    other = rest[balancer.choose(rest, turn("u", 1), 0.0)]
    assert targets[balancer.choose(targets, turn("u", 2), 0.0)] is other


def test_targets_that_a_reload_made_anew_are_the_same() -> None:
    balancer, targets = make(), named("abcd")
    home = balancer.choose(targets, turn("u", 0), 0.0)
    for _ in range(9):
        assert balancer.choose(named("abcd"), turn("u", 1), 0.0) == home


def test_a_request_without_a_prompt_goes_where_the_load_is_least() -> None:
    balancer, targets = make(), [Candidate(in_flight=1), Candidate()]
    assert {balancer.choose(targets, request, 0.0) for request in (None, chat()) for _ in range(9)} == {1}
    assert balancer.note == ""


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    balancer, targets = make(), named("abcd")
    balancer.remembered = 30
    [kept] = starts(turn("kept", 0)).numbers
    balancer.choose(targets, turn("kept", 0), 0.0)
    balancer.choose(targets, turn("gone", 0), 0.0)
    for number in range(40):
        balancer.choose(targets, turn(number, 0), 0.0)
        assert kept in balancer._starts
        balancer.choose(targets, turn("kept", 0), 0.0)
        assert len(balancer._starts) <= 30
    balancer.choose(targets, turn("gone", 0), 0.0)
    assert balancer.note == "miss"


STEPS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=80)


@given(
    STEPS,
    st.lists(st.sampled_from([0.1, 1.0, 2.0, 7.0]), min_size=1, max_size=6),
    st.sampled_from([1.0, 1.25, 2.0]),
)
def test_known_prompts_never_exceed_the_bound(
    steps: list[tuple[int, bool]], weights: list[float], factor: float
) -> None:
    balancer = make(factor=factor, floor=1)
    targets = [Candidate(weight, name=str(index)) for index, weight in enumerate(weights)]
    for user, comes in steps:
        if not comes:
            busy = [target for target in targets if target.in_flight]
            if busy:
                busy[user % len(busy)].in_flight -= 1
            continue
        chosen = targets[balancer.choose(targets, turn(user, 1, SYSTEM), 0.0)]
        everything = sum(target.in_flight for target in targets) + 1
        chosen.in_flight += 1
        if balancer.note == "hit":
            assert chosen.in_flight <= max(1, factor * everything * chosen.weight / sum(weights) + 1)
