"""The canary's share: grows on enough good outcomes, is held on few, and goes back to zero on proof only."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config.canary import Bounds, Growth
from gateway.config.section import validate
from gateway.routing.canary import Canary, State

Outcome = Callable[[Random], tuple[bool, float | None]]
"""Whether a request fails, and its time to the first token in seconds."""

QUICK = Growth(steps=(0.1, 0.5, 1.0), interval=60.0, samples=50)


def serves(failing: float = 0.0, first_token: float = 0.2, spread: float = 0.6) -> Outcome:
    """Return a model of which `failing` requests fail, with log-normal times around `first_token` seconds."""

    def outcome(rng: Random) -> tuple[bool, float | None]:
        failed = rng.random() < failing
        return failed, None if failed else first_token * rng.lognormvariate(0.0, spread)

    return outcome


class Run:
    """A canary under a steady stream of requests, ten a second."""

    def __init__(self, settings: Growth, incumbent: Outcome, canary: Outcome, seed: int = 0) -> None:
        self.rng = Random(seed)
        self.canary = Canary(settings, 0.0)
        self.models = (incumbent, canary)
        self.now = 0.0
        self.asked = self.failed = 0
        self.shares = [self.canary.share]

    def go(self, requests: int = 200_000) -> State:
        """Send requests until the canary's state is final; or so many."""
        for _ in range(requests):
            chosen = self.rng.random() < self.canary.share
            failed, first_token = self.models[chosen](self.rng)
            self.asked += chosen
            self.failed += chosen and failed
            self.now += 0.1
            self.canary.count(chosen, failed, first_token, self.now)
            if self.canary.share != self.shares[-1]:
                self.shares.append(self.canary.share)
            if self.canary.state in (State.DONE, State.ROLLED_BACK):
                break
        return self.canary.state


@pytest.mark.parametrize("failing", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("runs", [10, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_an_equal_canary_gets_everything(failing: float, runs: int) -> None:
    """Of 300 runs none is rolled back: so fewer than one in a hundred is, but for a chance of one in twenty."""
    for seed in range(runs):
        run = Run(QUICK, serves(failing), serves(failing), seed)
        assert run.go() is State.DONE, (seed, run.canary.reason)
        assert run.shares == [0.1, 0.5, 1.0]


def test_a_better_canary_gets_everything() -> None:
    for seed in range(5):
        assert Run(QUICK, serves(0.1, 0.4), serves(0.0, 0.1), seed).go() is State.DONE


@pytest.mark.parametrize(
    ("failing", "most"), [(1.0, 6), (0.5, 15), (0.2, 40)], ids=["all", "half", "a fifth"]
)
def test_a_bad_canary_costs_few_requests(failing: float, most: int) -> None:
    """`most` is how many requests may fail before it has no share any more, in 38 of 40 runs."""
    costs = []
    for seed in range(40):
        run = Run(QUICK, serves(0.01), serves(failing), seed)
        assert run.go() is State.ROLLED_BACK
        assert run.canary.share == 0.0 and "failed" in run.canary.reason
        assert len(run.shares) == 2, "it never grew"
        costs.append(run.failed)
    assert sorted(costs)[37] <= most, costs


def test_a_slow_canary_costs_few_requests() -> None:
    """It takes twice as long to begin. The few requests of these short steps let at most one in twenty pass."""
    costs = []
    for seed in range(20):
        run = Run(QUICK, serves(), serves(first_token=0.4), seed)
        if run.go() is State.ROLLED_BACK:
            assert "took longer" in run.canary.reason
            costs.append(run.asked)
    assert len(costs) >= 19
    assert sorted(costs)[-2] <= 1_000, costs


def test_a_canary_that_is_worse_within_the_bounds_is_no_bad_one() -> None:
    wide = QUICK.model_copy(update={"within": Bounds(errors=0.05, first_token=1.0)})
    for seed in range(10):
        assert Run(wide, serves(0.01), serves(0.03, 0.25), seed).go() is State.DONE


def test_a_few_unlucky_requests_decide_nothing() -> None:
    canary = Canary(QUICK, 0.0)
    for _ in range(200):
        canary.count(False, False, 0.1, 1.0)
    assert canary.count(True, True, None, 1.0) is None
    assert canary.count(True, True, None, 1.0) is None
    assert canary.share == 0.1
    assert canary.count(True, True, None, 1.0) is State.ROLLED_BACK


def test_an_outage_of_both_is_no_fault_of_the_canary() -> None:
    canary = Canary(QUICK, 0.0)
    for number in range(5_000):
        canary.count(number % 10 == 0, True, None, number / 1_000)
    assert canary.state is State.GROWING


def test_without_the_incumbents_requests_nothing_follows() -> None:
    """All that is known is that the canary's fail: so may the incumbent's."""
    canary = Canary(QUICK, 0.0)
    for _ in range(1_000):
        assert canary.count(True, True, None, 1.0) is None


def test_it_is_held_while_there_are_too_few_requests() -> None:
    canary = Canary(QUICK, 0.0)
    for _ in range(49):
        canary.count(True, False, None, 10.0)
        canary.count(False, False, None, 10.0)
    assert canary.count(False, False, None, 61.0) is State.HELD
    assert canary.reason == "too few requests: 49 of the canary, 50 of the incumbent"
    assert canary.count(False, False, None, 62.0) is None
    assert canary.count(True, False, None, 63.0) is State.GROWING
    assert (canary.share, canary.reason) == (0.5, "")


def test_it_is_held_while_it_looks_worse() -> None:
    canary = Canary(QUICK, 0.0)
    for number in range(100):
        canary.count(False, False, None, 10.0)
        canary.count(True, number in (50, 70, 90), None, 10.0)
    for _ in range(3):
        canary.count(True, True, None, 10.0)
    assert canary.count(False, False, None, 61.0) is State.HELD
    assert canary.reason == "6 of its 103 requests failed"
    for _ in range(500):
        canary.count(True, False, None, 62.0)
    assert canary.share == 0.5


def test_it_is_held_where_too_few_streams_can_be_compared() -> None:
    canary = Canary(QUICK, 0.0)
    for _ in range(60):
        canary.count(False, False, 0.1, 10.0)
        canary.count(True, False, 0.1, 10.0)
    assert canary.count(False, False, 0.1, 61.0) is State.HELD
    assert "too few streams" in canary.reason


def test_the_last_step_is_measured_by_the_incumbents_last_requests() -> None:
    run = Run(QUICK, serves(), serves())
    while run.canary.share < 1.0:
        run.go(1)
    run.models = (serves(), serves(failing=0.5))
    assert run.go() is State.ROLLED_BACK
    assert run.shares[-1] == 0.0


def test_a_last_share_below_everything_stays_watched() -> None:
    half = Growth(steps=(0.1, 0.5), interval=60.0, samples=50)
    run = Run(half, serves(), serves())
    assert run.go() is State.DONE
    for _ in range(20_000):
        run.go(1)
    assert run.canary.state is State.DONE, run.canary.reason
    run.models = (serves(), serves(failing=0.5))
    for _ in range(200):
        run.go(1)
    assert run.canary.share == 0.0


def test_it_stays_at_zero_until_it_is_reset() -> None:
    run = Run(QUICK, serves(), serves(failing=1.0))
    assert run.go() is State.ROLLED_BACK
    for _ in range(1_000):
        assert run.canary.count(False, False, 0.1, run.now + 1e6) is None
    run.canary.reset(run.now)
    assert (run.canary.state, run.canary.share, run.canary.reason) == (State.GROWING, 0.1, "")
    run.models = (serves(), serves())
    assert run.go() is State.DONE


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.none() | st.floats(0, 1e5), st.floats(0, 30))),
    st.floats(0, 0.5),
)
def test_whatever_happens_the_share_is_one_of_the_steps_or_zero(
    requests: list[tuple[bool, bool, float | None, float]], errors: float
) -> None:
    steps = (0.1, 0.5, 1.0)
    settings = Growth(steps=steps, interval=20.0, samples=10, within=Bounds(errors=errors))
    canary = Canary(settings, 0.0)
    now, before = 0.0, 0.1
    for is_canary, failed, first_token, later in requests:
        now += later
        changed = canary.count(is_canary, failed, first_token, now)
        assert canary.share in (0.0, *steps)
        assert canary.share in (0.0, before) or steps.index(canary.share) == steps.index(before) + 1
        assert canary.share == before or changed is not None
        assert (canary.share == 0.0) == (canary.state is State.ROLLED_BACK)
        assert bool(canary.reason) == (canary.state in (State.HELD, State.ROLLED_BACK))
        if not canary.share:
            break
        before = canary.share


@pytest.mark.parametrize("steps", [["5%", "5%"], ["10%", "1%"], ["0%", "10%"]])
def test_steps_that_do_not_grow_are_refused(steps: list[str]) -> None:
    with pytest.raises(ValidationError, match="expected shares that grow"):
        validate(Growth, {"steps": steps})
