"""A loop of cases names the one that fails, and notices when cases are missing."""

from __future__ import annotations

import pytest

from tests.looped import looped


def run(expected: int, highest: int = 9) -> None:
    """Three cases, each a number that may be so high, of which `expected` are expected."""
    with looped(expected) as loop:
        for number in range(3):
            with loop.case("number", number):
                assert number <= highest


def test_all_cases_pass() -> None:
    run(3)


def test_a_failure_names_its_case() -> None:
    with pytest.raises(AssertionError) as failure:
        run(3, highest=0)
    assert failure.value.__notes__ == ["in case 2: 'number', 1"]


@pytest.mark.parametrize("expected", [0, 2, 4])
def test_a_case_too_many_or_too_few_fails(expected: int) -> None:
    with pytest.raises(AssertionError, match="3 cases instead of"):
        run(expected)
