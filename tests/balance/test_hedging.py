"""When a request may have a second attempt: the wait that its kind of answer earns, and the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.balance.hedging import ENOUGH, RUN, Hedging


def hedging(after: float | str = "p95", share: float = 0.02) -> Hedging:
    made = Hedging()
    made.change(after, share)
    return made


def test_a_percentile_needs_enough_answers() -> None:
    model = hedging()
    for number in range(ENOUGH):
        assert model.wait("chat", True) is None
        model.observe("chat", True, 0.1 if number % 10 else 1.0)
    wait = model.wait("chat", True)
    assert wait is not None and 1.0 <= wait <= 1.1


def test_each_kind_of_answer_has_its_own() -> None:
    model = hedging()
    for _ in range(ENOUGH):
        model.observe("chat", True, 0.1)
        model.observe("chat", False, 5.0)
    assert 0.1 <= (model.wait("chat", True) or 0) <= 0.11
    assert 5.0 <= (model.wait("chat", False) or 0) <= 5.5
    assert model.wait("embeddings", False) is None


def test_a_duration_holds_at_once_for_streams_and_is_the_least_for_whole_answers() -> None:
    model = hedging(after=0.8)
    assert model.wait("chat", True) == 0.8
    assert model.wait("embeddings", False) is None
    for _ in range(ENOUGH):
        model.observe("embeddings", False, 0.01)
        model.observe("chat", False, 5.0)
    assert model.wait("embeddings", False) == 0.8
    assert 5.0 <= (model.wait("chat", False) or 0) <= 5.5


def test_it_follows_what_is_measured_lately() -> None:
    model = hedging()
    for _ in range(5_000):
        model.observe("chat", True, 5.0)
    for _ in range(5_000):
        model.observe("chat", True, 0.1)
    assert 0.1 <= (model.wait("chat", True) or 0) <= 5.0
    for _ in range(15_000):
        model.observe("chat", True, 0.1)
    assert 0.1 <= (model.wait("chat", True) or 0) <= 0.11


@given(
    st.floats(0.0, 1.0),
    st.lists(st.booleans(), max_size=2_000),
)
def test_no_more_than_the_share_is_hedged(share: float, slow: list[bool]) -> None:
    model = hedging(after=0.1, share=share)
    taken = 0
    for requests, each in enumerate(slow, 1):
        model.wait("chat", True)
        if each and model.may:
            model.take()
            taken += 1
        assert taken <= share * (requests + RUN)
        assert taken <= share * requests + 1e-6, "nothing is saved before it was earned"


def test_a_budget_saved_for_long_is_not_spent_all_at_once() -> None:
    model = hedging(share=0.02)
    for _ in range(1_000_000 // 100):
        model.wait("chat", True)
    spent = 0
    while model.may:
        model.take()
        spent += 1
    assert spent == RUN * 0.02


def test_a_smaller_budget_holds_at_once() -> None:
    model = hedging(share=1.0)
    for _ in range(RUN):
        model.wait("chat", True)
    model.change("p95", 0.0)
    assert not model.may
    model.wait("chat", True)
    assert not model.may


def test_another_percentile_begins_anew() -> None:
    model = hedging()
    for _ in range(ENOUGH):
        model.observe("chat", True, 0.1)
    model.change("p95", 0.5)
    assert model.wait("chat", True) is not None
    model.change("p99", 0.5)
    assert model.wait("chat", True) is None
