"""The breaker as a pure state machine: time and chance are numbers here."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.breaker import SLICES, Breaker, Settings, State

PLAIN = Settings(jitter=0)


def breaker(**changes: float) -> Breaker:
    return Breaker(Random(1), Settings(**{"jitter": 0, **changes}))  # type: ignore[arg-type]


def run(b: Breaker, verdict: bool | None, now: float) -> None:
    trial = b.begin(now)
    if trial:
        b.end_trial()
    if verdict is True:
        b.succeeded(trial, now)
    elif verdict is False:
        b.failed(trial, now)


def opened(at: float = 0.0) -> Breaker:
    b = breaker()
    for _ in range(5):
        run(b, False, at)
    return b


def test_failures_in_a_row_open_it() -> None:
    b = breaker()
    for _ in range(4):
        run(b, False, 0)
    assert b.allows(0)
    run(b, False, 0)
    assert b.open
    assert not b.allows(29.9)


def test_its_state_is_what_it_does_with_a_request() -> None:
    b = breaker()
    assert b.state(0) is State.CLOSED
    b.cool(5, 0)
    assert (b.state(4), b.state(5)) == (State.RESTING, State.CLOSED)
    b = opened()
    assert (b.state(29), b.state(30)) == (State.OPEN, State.HALF_OPEN)
    for second in (30, 31):
        run(b, True, second)
    assert b.state(32) is State.CLOSED


def test_a_success_between_starts_the_count_anew() -> None:
    b = breaker()
    for verdict in (False, False, False, False, True, False, False, False, False):
        run(b, verdict, 0)
    assert b.allows(0)


def test_half_of_the_window_opens_it_though_never_five_in_a_row() -> None:
    b = breaker()
    for second in range(20):
        assert b.allows(second)
        run(b, second % 2 == 0, second)
    assert not b.allows(20)


def test_what_lies_before_the_window_is_forgotten() -> None:
    b = breaker()
    for second in range(0, 400, 20):
        run(b, second % 40 == 0, second)
    assert b.allows(400)


def test_the_window_does_not_grow_with_the_rate_of_requests() -> None:
    b = breaker()
    for number in range(10_000):
        run(b, True, number / 100)
    assert len(b._recent) <= SLICES + 1


def test_what_is_neither_good_nor_bad_leaves_no_trace() -> None:
    b = breaker()
    for _ in range(100):
        run(b, None, 0)
    assert b.allows(0)


def test_after_the_pause_one_trial_at_a_time() -> None:
    b = opened()
    assert b.allows(30)
    assert b.begin(30)
    assert not b.allows(31)
    b.end_trial()
    b.succeeded(True, 32)
    assert b.open
    run(b, True, 33)
    assert not b.open
    assert b.ejections == 0


def test_a_failed_trial_opens_it_for_longer_up_to_a_limit() -> None:
    b, now, pauses = opened(), 0.0, []
    for _ in range(12):
        start = now
        while not b.allows(now):
            now += 1
        pauses.append(now - start)
        run(b, False, now)
    assert pauses[:4] == [30, 60, 90, 120]
    assert pauses[-1] == 300


def test_a_trial_whose_client_left_makes_room_for_the_next() -> None:
    b = opened()
    assert b.begin(30)
    b.end_trial()
    assert b.allows(31)


@pytest.mark.parametrize("good", [True, False])
def test_a_last_resort_is_no_trial(good: bool) -> None:
    b = opened()
    before = b.left(1)
    assert not b.begin(1)
    (b.succeeded if good else b.failed)(False, 1)
    assert b.open and b.left(1) == before and b.ejections == 1


def test_a_probe_that_finds_the_engine_back_ends_the_pause() -> None:
    b = opened()
    assert not b.allows(1)
    b.halve()
    assert b.open and b.allows(1) and b.begin(1) and not b.allows(1)
    closed = breaker()
    closed.halve()
    assert not closed.open


def test_cooling_is_no_failure() -> None:
    b = breaker()
    b.cool(5, 10)
    assert not b.allows(14.9)
    assert b.allows(15)
    assert not b.open


def test_jitter_spreads_the_return() -> None:
    ends = set()
    for seed in range(10):
        b = Breaker(Random(seed))
        for _ in range(5):
            run(b, False, 0)
        ends.add(next(second for second in range(100) if b.allows(second)))
    assert min(ends) >= 30
    assert max(ends) <= 41
    assert len(ends) > 3


@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.floats(0, 60)), max_size=200))
def test_it_always_opens_again_to_requests(events: list[tuple[bool | None, float]]) -> None:
    """Whatever happened, a backend is tried again within the longest pause, and then heals by good answers."""
    b, now = breaker(), 0.0
    for verdict, pause in events:
        now += pause
        if b.allows(now):
            run(b, verdict, now)
    now += PLAIN.longest
    assert b.allows(now)
    for _ in range(PLAIN.trials):
        run(b, True, now)
    assert not b.open
