"""What balancers say they would weigh: it is what they do, and asking changes nothing."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from gateway.asked import Asked
from gateway.balance.latency import Latency
from gateway.balance.policies import balancer
from gateway.balance.prefix import Prefix
from gateway.balance.session import Session
from gateway.config.balance import Balance
from tests.balance.candidates import Candidate, asked, chat, named, outcomes
from tests.balance.test_basic import MAKE

BY_CHANCE = {"random", "weighted", "power_of_two", "latency"}


def requests(rng: Random) -> Asked:
    """Return a request of one of a few sessions, whose prompts begin alike; sometimes of none, and without a prompt."""
    session = rng.randrange(8)
    if not session:
        return asked()
    turns = [f"{session} says {number} " * 40 for number in range(2 * rng.randrange(4) + 1)]
    headers = {b"x-session-id": b"%d" % session}
    return Asked(chat(*turns, system="Be kind. " * 200).request, headers, chat().caller)


@pytest.mark.parametrize("policy", sorted(MAKE))
def test_asking_changes_no_choice_and_what_is_chosen_had_a_chance(policy: str) -> None:
    weighing, silent = MAKE[policy](Random(3)), MAKE[policy](Random(3))
    targets = [Candidate(weight, name=name) for weight, name in ((1, "a"), (2, "b"), (3, "c"))]
    rng, certain = Random(7), 0
    for now in range(400):
        request = requests(rng)
        for target in targets:
            target.in_flight = rng.randrange(6)
        note = weighing.note
        found = weighing.weigh(targets, request, float(now))
        assert weighing.note == note
        assert sum(each.chance for each in found) == pytest.approx(1.0)
        chosen = weighing.choose(targets, request, float(now))
        assert silent.choose(targets, request, float(now)) == chosen
        assert silent.note == weighing.note
        assert found[chosen].chance > 0.0
        certain += found[chosen].chance == 1.0
        for each in (weighing, silent):
            each.answered(targets[chosen].name, 0.1 * (now % 7 + 1), float(now))
    assert (certain == 0) is (policy in BY_CHANCE), (
        "with three targets nobody is certain where chance decides"
    )


@pytest.mark.parametrize("policy", sorted(MAKE.keys() - {"round_robin", "prefix", "session"}))
@pytest.mark.parametrize("loads", [(0, 0, 0), (0, 2, 0), (1, 1, 9), (5, 3, 9)])
def test_the_chances_are_those_of_the_choices(policy: str, loads: tuple[int, ...]) -> None:
    making = MAKE[policy](Random(1))
    targets = [
        Candidate(weight, load, name) for weight, load, name in zip((1, 2, 3), loads, "abc", strict=True)
    ]
    for seconds, target in zip((0.3, 0.2, 0.1), targets, strict=True):
        making.answered(target.name, seconds, 0.0)
    told = making.weigh(targets, None, 0.0)
    counts = Counter(making.choose(targets, None, 0.0) for _ in range(4000))
    for index, each in enumerate(told):
        assert counts[index] / 4000 == pytest.approx(each.chance, abs=0.035)


def test_scores_are_the_numbers_that_are_compared() -> None:
    targets = [Candidate(2, 3, "a"), Candidate(1, 1, "b")]

    def scores(policy: str) -> list[float | None]:
        return [each.score for each in MAKE[policy](Random(1)).weigh(targets, asked(), 0.0)]

    assert scores("least_loaded") == [2.0, 2.0]
    assert scores("power_of_two") == [1.5, 1.0]
    assert scores("random") == [1.0, 1.0]
    assert scores("weighted") == [2.0, 1.0]
    assert scores("round_robin") == [2.0, 1.0]
    assert scores("prefix") == scores("session") == [2.0, 2.0]
    assert scores("latency") == [None, None]
    latency = Latency(Random(1))
    latency.answered("a", 0.5, 0.0)
    first, other = latency.weigh(targets, None, 0.0)
    assert (first.score, other.score) == (0.5 * 2.5, None)
    assert "every other one goes first" in other.words


def test_a_session_says_where_it_was_and_why_it_has_to_move() -> None:
    balancer = MAKE["session"](Random(1))
    assert isinstance(balancer, Session)
    request, targets = asked(headers={b"x-session-id": b"s"}), named("abc")
    hashed = balancer.weigh(targets, request, 0.0)
    home = balancer.choose(targets, request, 0.0)
    assert hashed[home].chance == 1.0
    assert hashed[home].score == min(each.score or 0.0 for each in hashed)
    found = balancer.weigh(targets, request, 0.0)
    assert found[home].words == "the session was here last"
    targets[home].in_flight = 50
    moved = balancer.weigh(targets, request, 0.0)
    assert moved[home].chance == 0.0
    assert moved[home].words.endswith("it has too much to do for it")


def test_a_prompt_says_how_much_of_it_is_known_where() -> None:
    balancer = MAKE["prefix"](Random(1))
    assert isinstance(balancer, Prefix)
    targets = named("abc")
    home = balancer.choose(targets, chat("hello " * 500), 0.0)
    known = balancer.weigh(targets, chat("hello " * 500, "yes", "and? " * 500), 0.0)
    assert known[home].chance == 1.0
    assert "knows 0 of" in known[home - 1].words
    assert "knows 0 of" not in known[home].words
    targets[home].in_flight = 50
    assert "has too much to do for that" in balancer.weigh(targets, chat("hello " * 500), 0.0)[home].words


def test_a_balancer_knows_what_the_config_calls_it() -> None:
    for policy in MAKE:
        settings = Balance.model_validate({"policy": policy})
        assert balancer(settings, outcomes(), Random(1)).policy == policy
