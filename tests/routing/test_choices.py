"""Choices of rules, each on models whose backends are up, down, loading or busy."""

from __future__ import annotations

import asyncio
import collections
import json
from random import Random
from typing import Any

import pytest

from backends.base import Health, Operation, Request
from backends.engines.openai import OpenAI
from gateway.admission.gate import Gate, Turn
from gateway.admission.tickets import Claim
from gateway.asked import Asked
from gateway.auth import Caller
from gateway.balance.basic import LeastLoaded
from gateway.config.canary import Growth
from gateway.config.defaults import Timeouts
from gateway.config.route import Match, Overflow
from gateway.config.section import validate
from gateway.errors import GatewayError
from gateway.fleet.backend import Backend
from gateway.fleet.breaker import Breaker
from gateway.fleet.lease import Target, pick
from gateway.priority import BACKGROUND
from gateway.routing import choices
from gateway.routing.canaries import Canaries
from gateway.routing.catalog import Group, Plan
from gateway.routing.crowding import PERIOD, Crowding
from gateway.routing.decision import Decision, Moment
from gateway.routing.match import conditions
from gateway.telemetry.metrics import Metrics
from gateway.wire.clocks import Clocks
from gateway.wire.quota import Quota

METRICS = Metrics("0")


class NoImages(OpenAI):
    """An engine that chats only."""

    operations = frozenset({Operation.CHAT})


def target(name: str, health: Health | None = Health.READY, kind: type[OpenAI] = OpenAI) -> Target:
    backend = Backend(name, kind(), METRICS, Breaker(Random(1)))
    backend.locate("http://127.0.0.1:1")
    if health is not None:
        backend.note(health)
    return Target(backend, f"{name}-model", METRICS.target("m", name), Clocks(Timeouts()))


def plan(model: str, *targets: Target, gate: Gate | None = None) -> Plan:
    return Plan((Group(model, (model,), targets, LeastLoaded(Random(1))),), 2, 30.0, 60.0, gate)


def asked(operation: Operation = Operation.CHAT, tags: tuple[str, ...] = (), **body: Any) -> Asked:
    sent = json.dumps({"model": "m", **body}).encode()
    return Asked(Request(operation, sent, "m"), {}, Caller("key", None, False, tags))


def made(choice: choices.Choice, request: Asked | None = None, now: float = 100.0) -> tuple[str, str]:
    """Return the model that is chosen, and the reason."""
    decision = Decision(b"", "m", "rule", 0.0)
    found = choice.choose(request or asked(), Moment(now, 0.0, Random(1)), decision)
    return found.model, decision.reason


def loads(at: Target, now: float = 100.0, models: tuple[str, ...] | None = None, **signals: float) -> None:
    told = {name: (value, 0.0) for name, value in signals.items()}
    if models is not None:
        told["models"] = (float(len(models)), 0.0)
    at.backend.load.take(told, models or (), at.backend.in_flight, now)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((Health.READY, Health.READY), ("a", "warm")),
        ((Health.LOADING, Health.READY), ("b", "warm")),
        ((Health.DOWN, Health.LOADING), ("b", "loading")),
        ((Health.DOWN, Health.ASLEEP), ("a", "cold")),
    ],
)
def test_warm_prefers_what_is_loaded_then_what_loads(
    states: tuple[Health, Health], expected: tuple[str, str]
) -> None:
    plans = [plan(name, target(name, state)) for name, state in zip("ab", states, strict=True)]
    assert made(choices.Warm(plans)) == expected


def test_warm_believes_an_engine_that_tells_which_models_are_in_memory() -> None:
    first, second = target("a"), target("b")
    loads(first, models=("other",))
    loads(second, models=("b-model",))
    warm = choices.Warm([plan("a", first), plan("b", second)])
    assert made(warm) == ("b", "warm")
    assert made(warm, now=1000.0) == ("a", "warm"), "what was told long ago is not believed"


def test_what_cannot_do_the_operation_is_passed_over() -> None:
    only_chat, all_of_it = plan("a", target("a", kind=NoImages)), plan("b", target("b"))
    embed = asked(Operation.EMBEDDINGS)
    assert made(choices.Warm([only_chat, all_of_it]), embed) == ("b", "warm")
    both = choices.Failover([choices.Served(only_chat), choices.Served(all_of_it)])
    assert made(both, embed) == ("b", "failover")
    assert made(both) == ("a", "failover")


def test_failover_joins_the_groups_in_their_order_each_model_once() -> None:
    a, b = plan("a", target("a")), plan("b", target("b"))
    inner = choices.Failover([choices.Served(b), choices.Served(a)])
    decision = Decision(b"", "m", "rule", 0.0)
    found = choices.Failover([choices.Served(a), inner]).choose(
        asked(), Moment(0.0, 0.0, Random(1)), decision
    )
    assert [group.model for group in found.groups] == ["a", "b"]


def test_canaries_and_shadows_of_choices_that_are_not_followed_have_no_part() -> None:
    a, b, c = (plan(name, target(name)) for name in "abc")
    growth = Growth(steps=(1.0,), interval=1.0, samples=10)
    canaries = Canaries(METRICS)
    trial = choices.Trial(canaries, "trial", (a, b, growth))
    shadowed = choices.Shadowed(choices.Served(a), c, 1.0)

    def noted(choice: choices.Choice, now: float = 100.0) -> tuple[str, bool, bool]:
        decision = Decision(b"", "m", "rule", 0.0)
        found = choice.choose(asked(), Moment(now, 0.0, Random(1)), decision)
        return found.model, decision.trial is not None, decision.shadow is not None

    assert noted(choices.Failover([trial, choices.Served(c)])) == ("b", True, False)
    assert noted(choices.Failover([choices.Served(c), trial])) == ("c", False, False)
    assert noted(choices.Failover([choices.Served(b), shadowed])) == ("b", False, False)
    assert noted(choices.Shadowed(choices.Failover([trial, shadowed]), c, 1.0)) == ("b", True, True)
    busy, free = Crowding(), Crowding()
    busy.bounds, free.bounds = validate(Overflow, {"queue": 1}), validate(Overflow, {"in_flight": 1})
    for home in (trial, shadowed):
        free_now = noted(choices.Overflow(home, choices.Served(c), free, KEEP))
        assert free_now == (("b", True, False) if home is trial else ("a", False, True))
        for model in (a, b):
            loads(model.groups[0].targets[0], waiting=5)
        assert noted(choices.Overflow(home, choices.Served(c), busy, KEEP)) == ("c", False, False)


def test_weights_are_kept_by_chance_and_by_user() -> None:
    models = [plan(name, target(name)) for name in "abc"]
    weighted = choices.Weighted(models, [6, 3, 1], "rule")
    users = [asked(user=f"u{number}") for number in range(3000)]
    by_user = collections.Counter(made(weighted, user)[0] for user in users)
    assert [made(weighted, user) for user in users[:50]] == [made(weighted, user) for user in users[:50]]
    moment, nobody = Moment(0.0, 0.0, Random(1)), asked()
    decision = Decision(b"", "m", "rule", 0.0)
    by_chance = collections.Counter(weighted.choose(nobody, moment, decision).model for _ in range(3000))
    for found in (by_user, by_chance):
        assert 1650 < found["a"] < 1950
        assert 780 < found["b"] < 1020
        assert 230 < found["c"] < 370


def test_weights_are_kept_by_the_session_of_an_agent_where_no_user_is_named() -> None:
    models = [plan(name, target(name)) for name in "ab"]
    weighted = choices.Weighted(models, [1, 1], "rule")
    sessions = [asked(prompt_cache_key=f"s{number}") for number in range(200)]
    moment, decision = Moment(0.0, 0.0, Random(1)), Decision(b"", "m", "rule", 0.0)
    first = [weighted.choose(each, moment, decision).model for each in sessions]
    assert first == [weighted.choose(each, moment, decision).model for each in sessions]
    assert 70 < first.count("a") < 130
    assert weighted.why(sessions[0], moment)[-1] == "by the session 's0'"
    assert weighted.why(asked(user="ann"), moment)[-1] == "by the user 'ann'"
    assert weighted.why(asked(), moment)[-1] == "by chance: no user or session is named"


KEEP = conditions(validate(Match, {"key_tag": "local-only"}), "keep", str)


def overflowing(home: Plan, hold: float = 10.0, **when: Any) -> tuple[choices.Overflow, Crowding]:
    crowding = Crowding()
    crowding.bounds, crowding.hold = validate(Overflow, when), hold
    away = plan("away", target("away"))
    return choices.Overflow(choices.Served(home), choices.Served(away), crowding, KEEP), crowding


def test_a_cloud_that_takes_few_more_requests_overflows_until_its_limit_is_reset() -> None:
    first, second = target("a"), target("b")
    choice, crowding = overflowing(plan("home", first, second), remaining=10)

    def told(at: Target, left: int, now: float, reset: str = "90s") -> None:
        assert at.backend.quota is not None
        at.backend.quota.take(
            (
                (b"x-ratelimit-remaining-requests", b"%d" % left),
                (b"x-ratelimit-reset-requests", reset.encode()),
            ),
            now,
        )

    assert made(choice, now=100) == ("home", "home"), "nothing is known"
    first.backend.quota, second.backend.quota = Quota(), Quota()
    told(first, 3, 100)
    assert made(choice, now=101) == ("home", "home"), "nothing is known of the other"
    told(second, 11, 101)
    assert made(choice, now=102) == ("home", "home"), "the other one takes more"
    told(second, 10, 102)
    assert made(choice, now=103) == ("away", "overflow")
    home = next(choice._home.plans())
    assert "the number of requests that are left is 10, the bound 10" in crowding.words(home, 103)
    told(second, 0, 103, "60s")
    assert made(choice, now=162) == ("away", "overflow")
    assert made(choice, now=163.5) == ("away", "overflow"), "it has not been over for long"
    assert made(choice, now=174) == ("home", "home"), "after the reset nothing is known any more"


def test_a_queue_beyond_its_bound_overflows_until_it_was_short_for_a_while() -> None:
    first, second = target("a"), target("b")
    choice, _ = overflowing(plan("home", first, second), queue=10)

    def at(now: float, waiting: float, other: float = 100.0) -> tuple[str, str]:
        loads(first, now, waiting=waiting)
        loads(second, now, waiting=other)
        return made(choice, now=now)

    assert at(100, 9) == ("home", "home")
    assert at(101, 10) == ("away", "overflow")
    assert at(102, 9) == ("away", "overflow"), "not below four fifths yet"
    assert at(103, 7) == ("away", "overflow"), "quiet for a second only"
    assert at(111, 7) == ("away", "overflow")
    assert at(112, 7) == ("home", "home")
    assert at(113, 9) == ("home", "home")
    assert at(114, 50, 2) == ("home", "home"), "one backend with room is enough"


def test_what_is_tagged_stays_at_home() -> None:
    at = target("a")
    choice, _ = overflowing(plan("home", at), queue=1)
    loads(at, waiting=5.0)
    assert made(choice) == ("away", "overflow")
    assert made(choice, asked(tags=("local-only",))) == ("home", "home")
    at.backend.note(Health.DOWN, "gone")
    assert made(choice, asked(tags=("local-only",)), now=101.0) == ("home", "home")


def test_an_unknown_signal_is_neither_busy_nor_idle() -> None:
    first, second = target("a"), target("b")
    choice, _ = overflowing(plan("home", first, second), kv_use="90%")
    loads(first, kv_use=0.95)
    assert made(choice) == ("home", "home"), "the other backend has not told"
    loads(second, now=101.0, kv_use=0.97)
    assert made(choice, now=101.0) == ("away", "overflow")


def test_requests_in_flight_and_in_the_gateways_own_queue_count() -> None:
    at = target("a")
    by_flight, _ = overflowing(plan("home", at), in_flight=3)
    at.backend.in_flight = 3
    assert made(by_flight) == ("away", "overflow")


def background(**header: str) -> Asked:
    sent = b'{"model":"m"}'
    headers = {name.replace("_", "-").encode(): value.encode() for name, value in header.items()}
    return Asked(Request(Operation.CHAT, sent, "m"), headers, Caller("key", None, False, ()))


LINE = background(x_gateway_priority="background")


def test_requests_in_the_background_crowd_nobody_out() -> None:
    at = target("a")
    by_flight, crowding = overflowing(plan("home", at), in_flight=2)
    lines = [pick([at], None, 100.0, asked=LINE) for _ in range(5)]
    assert at.in_flight == 5 and made(by_flight) == ("home", "home")
    assert "the number of requests in flight is 0, the bound 2" in crowding.words(plan("home", at), 101.0)
    others = [
        pick([at], None, 101.0, asked=request)
        for request in (asked(), background(x_gateway_priority="batch"))
    ]
    assert made(by_flight, now=102.0) == ("away", "overflow")
    for lease in [*lines, *others]:
        assert lease is not None
        lease.close(103.0)
    assert (at.in_flight, at.pressing, at.backend.patient) == (0, 0, 0)


async def test_lines_that_wait_are_no_queue() -> None:
    gate = Gate(1, 100)
    assert gate.try_enter()
    turns = [
        Turn(Claim("batch", 1.0, BACKGROUND), asyncio.get_running_loop().create_future()) for _ in range(8)
    ]
    for turn in turns:
        gate.join(turn)
    home = plan("home", target("a"), gate=gate)
    choice, crowding = overflowing(home, queue=2)
    assert (gate.waiting, gate.pressing) == (8, 0) and made(choice) == ("home", "home")
    people = [Turn(Claim("person", 1.0), asyncio.get_running_loop().create_future()) for _ in range(2)]
    for turn in people:
        gate.join(turn)
    assert "the queue is 2, the bound 2" in crowding.words(home, 101.0)
    assert made(choice, now=101.0) == ("away", "overflow")
    for turn in (*turns, *people):
        turn.withdraw()


def test_without_a_backend_that_is_up_requests_go_elsewhere() -> None:
    choice, _ = overflowing(plan("home", target("a", Health.DOWN)), queue=5)
    assert made(choice) == ("away", "overflow")


def test_a_look_is_good_for_a_moment_and_each_model_has_its_own() -> None:
    at, other = target("a"), target("b")
    _, crowding = overflowing(plan("home", at), queue=1)
    home, else_ = plan("home", at), plan("other", other)
    assert not crowding.judge(home, 100.0)
    loads(at, waiting=5.0)
    assert not crowding.judge(home, 100.0 + PERIOD / 2)
    assert crowding.judge(home, 100.0 + 2 * PERIOD)
    assert not crowding.judge(else_, 100.0 + 2 * PERIOD)


def test_a_model_that_nobody_serves_so_far_is_said() -> None:
    with pytest.raises(GatewayError) as caught:
        made(choices.Absent("later"))
    assert caught.value.status == 503
    assert choices.Absent("later").why(asked(), Moment(0.0, 0.0, Random(1))) == [
        "no backend serves the model 'later' so far"
    ]


def test_why_says_what_is_weighed() -> None:
    at = target("a")
    choice, _ = overflowing(plan("home", at), queue=4)
    loads(at, waiting=1.0)
    why = choice.why(asked(tags=("local-only",)), Moment(100.0, 0.0, Random(1)))
    assert why == [
        "home: to the model 'home'",
        "the queue is 1, the bound 4",
        "there is room",
        "the request stays at home: key_tag local-only",
        "overflow: to the model 'away'",
    ]
    warm = choices.Warm([plan("x", target("x", Health.LOADING)), plan("y", target("y", Health.DOWN))])
    assert warm.why(asked(), Moment(100.0, 0.0, Random(1))) == [
        "the model 'x' is being loaded",
        "the model 'y' is not loaded",
    ]


def test_why_tells_of_each_model_that_may_be_home() -> None:
    first, second = target("a"), target("b")
    home = choices.Weighted([plan("one", first), plan("two", second)], [1, 1], "x")
    crowding = Crowding()
    crowding.bounds = validate(Overflow, {"in_flight": 4})
    choice = choices.Overflow(home, choices.Served(plan("away", target("away"))), crowding, KEEP)
    second.backend.in_flight = 9
    why = choice.why(asked(), Moment(100.0, 0.0, Random(1)))
    assert "'one': there is room" in why
    assert "'two': it is too busy" in why


def test_a_name_that_is_the_models_own_is_found_once() -> None:
    (condition,) = conditions(validate(Match, {"model": "m"}), "rule", lambda name: name)
    assert condition.found(asked(), Moment(0.0, 0.0, Random(1))) == "m"
