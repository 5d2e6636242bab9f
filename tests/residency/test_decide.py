"""Decisions about which engines run: each rule in a small world, and all of them in large random ones."""

from dataclasses import replace
from math import inf
from random import Random

import pytest

from gateway.residency.decide import PATIENCE, decide, rivals
from gateway.residency.memory import ENGINES, RAM
from gateway.residency.resident import Place, Reason, Refuse, Resident, Sleep, Start, Stop, Terms, Wake
from gateway.residency.state import EngineState
from tests.residency.world import Life, World, loads

GIB = 1 << 30
ON_DEMAND = Terms(on_demand=True)


def engine(name: str, gib: float = 1.0, load: float = 2.0, terms: Terms = ON_DEMAND, **more: object) -> Life:
    """Return an engine that is stopped."""
    resident = Resident(name, terms, need={RAM: round(gib * GIB)}, **more)  # type: ignore[arg-type]
    return Life(resident, load, stop=0.5)


def ready(name: str, gib: float = 1.0, terms: Terms = ON_DEMAND, **more: object) -> Resident:
    """Return an engine that has been ready, and unused, for long."""
    return Resident(
        name,
        terms,
        EngineState.READY,
        {RAM: round(gib * GIB)},
        **more,  # type: ignore[arg-type]
    )


def wanted(name: str, gib: float = 1.0, since: float = 100.0, terms: Terms = ON_DEMAND) -> Resident:
    """Return an engine that is stopped, and that somebody waits for."""
    return Resident(name, terms, need={RAM: round(gib * GIB)}, waiting=1, wanted_since=since)


def world(*engines: Life, gib: float = 2.0) -> World:
    """Return a world with so much memory."""
    return World(engines, {RAM: round(gib * GIB)}, Random(1))


def actions(*residents: Resident, gib: float = 2.0, now: float = 100.0) -> list[object]:
    """Return what is decided."""
    return [*decide(residents, {RAM: round(gib * GIB)}, now).actions]


def test_an_engine_that_is_asked_for_starts_and_serves_all_who_wait() -> None:
    small = world(engine("a"))
    for when in (0.0, 0.5, 1.0):
        small.ask(when, "a", 1.0)
    small.run()
    assert loads(small) == {"a": 1}
    assert small.served == [2.0, 1.5, 1.0]


def test_nobody_starts_what_nobody_asks_for() -> None:
    assert actions(Resident("a", ON_DEMAND)) == []


def test_an_engine_that_always_runs_starts_at_once_whatever_the_budget() -> None:
    assert actions(Resident("a", Terms(), need={RAM: 9 * GIB})) == [Start("a")]


def test_six_requests_for_three_models_cost_one_load_each() -> None:
    small = world(engine("a"), engine("b"), engine("c"), gib=1)
    for model in "abcabc":
        small.ask(0.0, model, 1.0)
    small.run()
    assert loads(small) == {"a": 1, "b": 1, "c": 1}
    assert len(small.served) == 6


def test_the_longest_unused_makes_room() -> None:
    found = actions(ready("old", used_at=10.0), ready("new", used_at=90.0), wanted("c"))
    assert found == [Stop("old", Reason.ROOM, "c")]


def test_what_is_dear_to_load_stays_longer() -> None:
    dear = ready("dear", used_at=50.0, load_seconds=60.0)
    assert actions(dear, ready("cheap", used_at=60.0), wanted("c")) == [Stop("cheap", Reason.ROOM, "c")]


def test_the_lower_priority_makes_room_first() -> None:
    low = ready("low", terms=replace(ON_DEMAND, priority=-1), used_at=90.0)
    assert actions(ready("high", used_at=10.0), low, wanted("c")) == [Stop("low", Reason.ROOM, "c")]


def test_only_as_many_stop_as_are_needed() -> None:
    found = actions(ready("a", 1, used_at=10.0), ready("b", 3, used_at=20.0), wanted("c", 3), gib=4)
    assert found == [Stop("b", Reason.ROOM, "c")]


def test_an_engine_starts_only_when_the_room_is_free() -> None:
    leaving = replace(ready("a", 2), state=EngineState.DRAINING)
    assert actions(leaving, wanted("b")) == []
    assert actions(replace(leaving, state=EngineState.STOPPED), wanted("b")) == [Start("b")]


def test_a_busy_engine_is_drained_only_after_patience() -> None:
    busy = ready("a", 2, busy=True)
    assert actions(busy, wanted("b"), now=100.0 + PATIENCE - 0.1) == []
    assert actions(busy, wanted("b"), now=100.0 + PATIENCE) == [Stop("a", Reason.ROOM, "b")]


def test_an_engine_stays_as_long_as_its_start_took() -> None:
    fresh = ready("a", 2, ready_at=95.0, load_seconds=20.0)
    assert actions(fresh, wanted("b"), now=114.9) == []
    assert decide([fresh, wanted("b")], {RAM: 2 * GIB}, 114.9).again == 115.0
    assert actions(fresh, wanted("b"), now=115.0) == [Stop("a", Reason.ROOM, "b")]


def test_those_who_wait_are_let_in_before_their_engine_goes() -> None:
    assert actions(ready("a", 2, waiting=1), wanted("b"), now=200.0) == []


def test_pinned_and_permanent_engines_stay() -> None:
    for terms in (replace(ON_DEMAND, pin=True), Terms()):
        found = actions(ready("a", 2, terms), wanted("b"), now=200.0)
        assert found == [
            Refuse("b", "it needs 1.0 GiB of RAM, and there are 0 bytes beside 'a'"),
        ]


def test_what_never_fits_is_refused_with_the_arithmetic() -> None:
    found = actions(wanted("a", 3), gib=2)
    assert found == [Refuse("a", "it needs 3.0 GiB of RAM, and there are 2.0 GiB")]


def test_what_a_request_says_takes_the_place_of_the_idle_time() -> None:
    idle = replace(ON_DEMAND, idle=60.0)
    for keep, stops in ((None, False), (0.0, True), (5.0, True), (11.0, False), (inf, False)):
        found = actions(ready("a", terms=idle, keep=keep, used_at=90.0))
        assert found == ([Stop("a", Reason.IDLE)] if stops else []), keep
    assert actions(ready("a", terms=idle, used_at=90.0), now=150.0) == [Stop("a", Reason.IDLE)]
    assert actions(ready("a", terms=idle, keep=inf, used_at=90.0), now=1e6) == []
    assert decide([ready("a", keep=11.0, used_at=90.0)], {RAM: GIB}, 100.0).again == 101.0


def test_one_that_is_kept_for_ever_makes_room_all_the_same_unless_it_is_pinned() -> None:
    kept = ready("a", 2, keep=inf)
    assert actions(kept, wanted("b"), now=200.0) == [Stop("a", Reason.ROOM, "b")]
    pinned = replace(kept, terms=replace(ON_DEMAND, pin=True))
    assert [type(action) for action in actions(pinned, wanted("b"), now=200.0)] == [Refuse]


def test_no_request_overrides_a_pin_or_an_engine_that_always_runs() -> None:
    for terms in (replace(ON_DEMAND, pin=True), Terms()):
        assert actions(ready("a", terms=terms, keep=0.0, unload=True)) == []


def test_one_that_is_to_stop_at_no_time_stays_for_those_who_use_it_or_wait() -> None:
    assert actions(ready("a", keep=0.0, busy=True)) == []
    assert actions(ready("a", keep=0.0, waiting=1)) == []
    assert actions(ready("a", keep=0.0)) == [Stop("a", Reason.IDLE)]


def test_one_that_is_unloaded_drains_and_nobody_who_waits_for_it_is_turned_away() -> None:
    assert actions(ready("a", unload=True, busy=True)) == [Stop("a", Reason.UNLOADED)]
    assert actions(ready("a", unload=True, waiting=1)) == []
    sleeping = replace(ready("a", unload=True), state=EngineState.SLEEPING, asleep={RAM: GIB})
    assert actions(sleeping) == [Stop("a", Reason.UNLOADED)]
    for state in (EngineState.STARTING, EngineState.DRAINING):
        assert Stop("a", Reason.UNLOADED) not in actions(replace(ready("a", unload=True), state=state))


def test_the_first_in_line_keeps_what_is_freed_for_it() -> None:
    """A small engine behind a large one does not take the room that the large one waits for."""
    half = ready("half", 1, busy=True, ready_at=99.0)
    assert actions(half, wanted("large", 2, since=100.0), wanted("small", 1, since=101.0), now=102.0) == []


def test_disjoint_swaps_run_side_by_side() -> None:
    found = actions(ready("a"), ready("b"), wanted("c"), wanted("d"))
    assert sorted(found, key=str) == [Stop("a", Reason.ROOM, "c"), Stop("b", Reason.ROOM, "d")]


def test_overlapping_swaps_come_one_after_the_other() -> None:
    """Two engines that need the room of the same third one: it is stopped once, for the first of them."""
    both = [wanted("c", 2, since=90.0), wanted("d", 2, since=91.0)]
    found = actions(ready("a", 2), *both, gib=2)
    assert found == [Stop("a", Reason.ROOM, "c")]
    leaving = replace(ready("a", 2), state=EngineState.DRAINING)
    assert actions(leaving, *both, gib=2) == []
    starting = replace(both[0], state=EngineState.STARTING)
    assert actions(replace(leaving, state=EngineState.STOPPED), *both, gib=2) == [Start("c")]
    assert actions(starting, both[1], gib=2) == []


def test_one_start_that_is_over_lets_all_who_fit_beside_it_start() -> None:
    large = replace(ready("large", 4), state=EngineState.DRAINING)
    line = [wanted("a", 1, since=90.0), wanted("b", 1, since=91.0), wanted("c", 3, since=92.0)]
    assert actions(large, *line, gib=4) == []
    gone = replace(large, state=EngineState.STOPPED)
    assert actions(gone, *line, gib=4) == [Start("a"), Start("b")]


def test_a_priority_is_a_head_start_and_no_more() -> None:
    high = wanted("high", since=110.0, terms=replace(ON_DEMAND, priority=20))
    assert actions(wanted("low", since=100.0), high, gib=1, now=120.0) == [Start("high")]
    late = replace(high, wanted_since=121.0)
    assert actions(wanted("low", since=100.0), late, gib=1, now=121.0) == [Start("low")]


def test_a_start_that_nobody_waits_for_any_more_is_given_up() -> None:
    loading = Resident("a", ON_DEMAND, EngineState.STARTING)
    assert actions(loading) == [Stop("a", Reason.UNWANTED)]
    assert actions(replace(loading, terms=replace(ON_DEMAND, finish_load=True))) == []
    assert actions(replace(loading, waiting=1)) == []


def test_an_idle_engine_stops_and_one_in_use_does_not() -> None:
    terms = replace(ON_DEMAND, idle=60.0)
    unused = ready("a", terms=terms, used_at=50.0)
    assert actions(unused, now=110.0) == [Stop("a", Reason.IDLE)]
    assert decide([unused], {}, 100.0).again == 110.0
    assert actions(replace(unused, busy=True), now=110.0) == []
    assert actions(replace(unused, waiting=1), now=110.0) == []
    assert actions(ready("a", terms=replace(terms, pin=True)), now=1e6) == []
    assert actions(ready("a"), now=1e6) == []


def test_a_failed_start_is_tried_again_only_for_those_who_come_later() -> None:
    failed = Resident("a", ON_DEMAND, EngineState.FAILED)
    assert actions(failed) == []
    assert actions(replace(failed, wanted_since=100.0, waiting=1)) == [Start("a")]


def test_an_engine_that_an_operator_stopped_is_not_started() -> None:
    assert actions(replace(wanted("a"), halted=True)) == []


def test_sleep_is_the_cheaper_way_to_make_room() -> None:
    sleeper = replace(ready("a", 2), asleep={RAM: GIB // 2})
    assert actions(sleeper, wanted("b")) == [Sleep("a", Reason.ROOM, "b")]
    assert actions(sleeper, wanted("b", 2)) == [Stop("a", Reason.ROOM, "b")]


def test_sleep_that_takes_memory_elsewhere_must_fit_there() -> None:
    """vLLM's sleep moves the weights of a GPU into RAM."""
    gpu = replace(ready("a"), need={"nvidia0": 20 * GIB}, asleep={RAM: 16 * GIB})
    other = replace(wanted("b"), need={"nvidia0": 20 * GIB})
    budget = {"nvidia0": 24 * GIB, RAM: 8 * GIB}
    assert decide([gpu, other], budget, 100.0).actions == (Stop("a", Reason.ROOM, "b"),)
    budget[RAM] = 32 * GIB
    assert decide([gpu, other], budget, 100.0).actions == (Sleep("a", Reason.ROOM, "b"),)


def test_one_that_sleeps_wakes_when_it_is_asked_for() -> None:
    asleep = replace(wanted("a", 2), state=EngineState.SLEEPING, asleep={RAM: GIB})
    assert actions(asleep) == [Wake("a")]
    assert actions(asleep, ready("b", 1), gib=2) == [Stop("b", Reason.ROOM, "a")]


def test_one_that_sleeps_stops_for_room_first() -> None:
    asleep = replace(ready("a"), state=EngineState.SLEEPING, asleep={RAM: GIB})
    assert actions(asleep, ready("b"), wanted("c")) == [Stop("a", Reason.ROOM, "c")]


def test_one_that_sleeps_in_the_way_of_the_first_in_line_stops_though_it_is_wanted_too() -> None:
    sleeper = replace(wanted("later", since=101.0), state=EngineState.SLEEPING, asleep={RAM: 2 * GIB})
    found = actions(wanted("first", 2, since=100.0), sleeper, now=102.0)
    assert found == [Stop("later", Reason.ROOM, "first")]


def test_a_rival_that_is_woken_at_the_same_moment_is_in_the_way() -> None:
    terms = replace(ON_DEMAND, rivals=frozenset({"b"}))
    woken = replace(wanted("b", since=100.0), state=EngineState.SLEEPING, asleep={})
    assert actions(woken, wanted("a", since=101.0, terms=terms)) == [Wake("b")]


def test_an_engine_of_unknown_need_runs_alone() -> None:
    stranger = replace(wanted("b"), need=None)
    assert actions(ready("a", 0.1), stranger) == [Stop("a", Reason.ROOM, "b")]
    assert actions(replace(ready("b"), need=None), wanted("a", 0.1)) == [Stop("b", Reason.ROOM, "a")]
    assert actions(ready("a", 0.1, replace(ON_DEMAND, pin=True)), stranger) == [Start("b")]


def test_at_most_so_many_run_at_once() -> None:
    found = decide([ready("a", used_at=1.0), ready("b", used_at=2.0), wanted("c")], {ENGINES: 2}, 100.0)
    assert found.actions == (Stop("a", Reason.ROOM, "c"),)


def test_rivals_do_not_run_together() -> None:
    terms = replace(ON_DEMAND, rivals=frozenset({"a"}))
    assert actions(ready("a", 0), wanted("b", 0, terms=terms)) == [Stop("a", Reason.ROOM, "b")]
    always = ready("a", 0, Terms())
    assert actions(always, wanted("b", 0, terms=terms)) == [
        Refuse("b", "'a' stays, and the two must not run together", for_good=True)
    ]


def anywhere(name: str, gib: int, since: float = 100.0, count: int = 1) -> Resident:
    """Return an engine that somebody waits for, and that may run on any of three GPUs, or on any two."""
    sets = [(0,), (1,), (2,)] if count == 1 else [(0, 1), (0, 2), (1, 2)]
    places = tuple(Place(gpus, {f"nvidia{gpu}": gib * GIB for gpu in gpus}) for gpus in sets)
    return Resident(name, ON_DEMAND, places=places, waiting=1, wanted_since=since)


GPUS = {f"nvidia{number}": 24 * GIB for number in range(3)}


def on(gpu: int, name: str, gib: int, **more: object) -> Resident:
    return replace(ready(name, **more), need={f"nvidia{gpu}": gib * GIB})  # type: ignore[arg-type]


def test_the_emptiest_gpus_are_taken() -> None:
    running = [on(0, "a", 10), on(1, "b", 2), on(2, "c", 5)]
    assert decide([*running, anywhere("d", 12)], GPUS, 100.0).actions == (Start("d", (1,)),)
    assert decide([*running, anywhere("d", 12, count=2)], GPUS, 100.0).actions == (Start("d", (1, 2)),)
    # Also where there is less RAM than memory of any GPU.
    anywhere_in_ram = replace(
        anywhere("d", 12), places=tuple(Place((n,), {RAM: GIB, f"nvidia{n}": 12 * GIB}) for n in range(3))
    )
    found = decide([*running, anywhere_in_ram], {**GPUS, RAM: 8 * GIB}, 100.0)
    assert found.actions == (Start("d", (1,)),)


def test_engines_that_always_run_share_out_the_gpus_too() -> None:
    always = [replace(anywhere(name, 20), terms=Terms(), wanted_since=None, waiting=0) for name in "abc"]
    found = decide([*always, on(1, "d", 10)], {**GPUS, "nvidia2": 30 * GIB}, 100.0)
    assert [action.gpus for action in found.actions if isinstance(action, Start)] == [(2,), (0,), (1,)]


def test_two_engines_never_count_the_same_free_memory() -> None:
    found = decide([anywhere("a", 20, 100.0), anywhere("b", 20, 101.0), anywhere("c", 3, 102.0)], GPUS, 103.0)
    assert {action.gpus for action in found.actions if isinstance(action, Start)} == {(0,), (1,), (2,)}


def test_room_is_made_where_it_costs_least() -> None:
    running = [on(0, "a", 20, busy=True), on(1, "b", 20), on(2, "c", 20, terms=replace(ON_DEMAND, pin=True))]
    assert decide([*running, anywhere("d", 12)], GPUS, 110.0).actions == (Stop("b", Reason.ROOM, "d"),)


def test_what_fits_on_no_gpu_is_refused() -> None:
    [refusal] = decide([anywhere("a", 30)], GPUS, 100.0).actions
    assert isinstance(refusal, Refuse)
    assert "it needs 30.0 GiB of memory of nvidia0, and there are 24.0 GiB; or it needs" in refusal.why


def test_sets_and_groups_make_rivals() -> None:
    assert rivals([("a", "b"), ("a", "c")], {}) == {
        "a": frozenset(),
        "b": frozenset("c"),
        "c": frozenset("b"),
    }
    assert rivals([], {"x": "one", "y": "one", "z": "two"}) == {
        "x": frozenset("y"),
        "y": frozenset("x"),
        "z": frozenset(),
    }


def test_alternating_clients_do_not_thrash() -> None:
    """Two clients that ask one after the other all the time, for engines of which one fits: half of the time serves."""
    small = world(engine("a", 2, load=5.0), engine("b", 2, load=5.0))
    for number in range(2000):
        small.ask(number * 0.5, "ab"[number % 2], 0.1)
    small.run()
    assert len(small.served) == 2000
    assert sum(loads(small).values()) <= 1000 / (5 + 5) + 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_thousand_random_events_break_no_rule(seed: int) -> None:
    rng = Random(seed)
    names = "abcdefgh"[: rng.randint(2, 8)]
    engines = [_any_engine(name, names, rng) for name in names]
    budget = {RAM: rng.randint(4, 12) * GIB, "nvidia0": 24 * GIB, "nvidia1": 24 * GIB}
    if rng.random() < 0.3:
        budget[ENGINES] = rng.randint(1, 3)
    big = World(engines, budget, rng)
    if rng.random() < 0.5:
        big.keeps = (None, None, 0.0, 3.0, inf)
        for when in range(0, 30_000, 7):
            big.at(float(when), "_unload", rng.choice(names))
    longest = _traffic(big, rng, 60_000)
    big.run(most=100_000)
    assert big.events == 100_000
    waiting = [waiter.came for life in engines for waiter in life.waiting]
    # Whoever waits is served before all others in line have had a turn: a start, its stay, a drain and a stop each.
    turn = max(life.load for life in engines) * 2 + PATIENCE + longest + 0.5
    bound = len(names) * 2 * turn + 10
    assert max(big.served) <= bound
    assert all(big.now - came <= bound for came in waiting)
    assert big.evictions <= big.now / 1.0 * len(names)


def _any_engine(name: str, names: str, rng: Random) -> Life:
    gpu = rng.choice([None, "nvidia0", "nvidia1"])
    need: dict[str, int] | None = {RAM: rng.randint(0, 4 * GIB)}
    if gpu is not None:
        need = {RAM: rng.randint(0, GIB), gpu: rng.randint(5, 20) * GIB}
    asleep = None if gpu is None or rng.random() < 0.5 else {gpu: GIB, RAM: rng.randint(0, 4 * GIB)}
    terms = Terms(
        on_demand=True,
        idle=rng.choice([None, 5.0, 60.0]),
        priority=rng.choice([0, 0, 0, 5, -5]),
        finish_load=rng.random() < 0.2,
        rivals=frozenset(rng.choice(names)) - {name} if rng.random() < 0.2 else frozenset(),
    )
    unknown = rng.random() < 0.1
    resident = Resident(name, terms, need={} if unknown else need, asleep=asleep)
    return Life(resident, rng.uniform(0.2, 20.0), stop=0.5, fails=rng.choice([0.0, 0.0, 0.1]))


def _traffic(big: World, rng: Random, count: int) -> float:
    """Have requests come. Return how long the longest takes."""
    now, longest = 0.0, 0.0
    names = [*big.engines]
    shares = [2.0**-place for place in range(len(names))]
    for _ in range(count):
        now += rng.expovariate(2.0)
        lasts = min(30.0, rng.expovariate(0.5))
        longest = max(longest, lasts)
        patience = rng.choice([1e9, 1e9, 1e9, 2.0])
        big.ask(now, rng.choices(names, shares)[0], lasts, patience)
    return longest
