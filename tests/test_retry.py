"""When another attempt is made, as a table; and the budget that bounds all of them together."""

import pytest

from backends.base import Failure, Kind, Phase
from gateway.dispatch.retry import FIRST_PAUSE, LONGEST_PAUSE, Budget, loading_pause, may_retry

AGAIN = {
    Kind.CONNECT: True,
    Kind.UNRESOLVED: True,
    Kind.RESET: True,
    Kind.OVERLOADED: True,
    Kind.LOADING: True,
    Kind.REJECTED: False,
    Kind.CONTEXT: False,
    Kind.MISSING: True,
    Kind.REFUSED: True,
    Kind.FAILED: True,
    Kind.GARBLED: True,
    Kind.LIMIT: False,
    Kind.UNSUPPORTED: True,
}


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.TIMEOUT])
def test_kinds(kind: Kind) -> None:
    assert may_retry(Failure(kind, ""), left=10) is AGAIN[kind]


@pytest.mark.parametrize(
    ("phase", "again"), [(Phase.FIRST_BYTE, True), (Phase.FIRST_TOKEN, True), (Phase.TOTAL, False)]
)
def test_timeouts_depend_on_the_phase(phase: Phase, again: bool) -> None:
    assert may_retry(Failure(Kind.TIMEOUT, "", phase=phase), left=10) is again


def test_nothing_is_tried_just_before_the_deadline() -> None:
    assert not may_retry(Failure(Kind.RESET, ""), left=0.01)


def test_the_budget_has_a_floor_and_a_share() -> None:
    budget = Budget(share=0.2, floor=3)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    budget.active = 100
    assert [budget.take() for _ in range(18)] == [True] * 17 + [False]
    budget.give_back()
    assert budget.take()


def test_a_loading_backend_is_asked_ever_more_seldom() -> None:
    pauses = [loading_pause(asked, 60.0) for asked in range(12)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE and pauses == sorted(pauses)
    assert loading_pause(5, 0.3) == 0.3 and loading_pause(5, 0.0) == 0.0
