"""The catalogue is complete and true: every row is there once, its tests exist, its codes are the gateway's."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS, GROUPS, page
from tests.faults.catalogue_row import UPSTREAM
from tests.faults.test_upstream import CASES
from tests.looped import looped

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
CODE = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")
"""A word in a row that is an error's code, or a metric's or setting's name."""


@functools.cache
def defined_in(file: str) -> frozenset[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse((TESTS / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_")
    )


@functools.cache
def source() -> str:
    """Everything the gateway is made of."""
    return "\n".join(path.read_text() for path in sorted((ROOT / "gateway").rglob("*.py")))


@pytest.mark.parametrize("title", [title for title, *_ in GROUPS])
def test_no_row_is_missing(title: str) -> None:
    [(_, letter, count, rows)] = [group for group in GROUPS if group[0] == title]
    assert [row.id for row in rows] == [f"{letter}{number:02}" for number in range(1, count + 1)]


def test_the_tests_of_a_row_exist() -> None:
    played = {case.row for case in CASES}
    with looped(sum(count for _, _, count, _ in GROUPS)) as loop:
        for row in FAULTS:
            with loop.case(row.id):
                assert row.proofs or len(row.gets) > 20, "without a test there is a reason"
                for proof in row.proofs:
                    file, _, name = proof.partition("::")
                    assert name in defined_in(file), proof
                assert (UPSTREAM in row.proofs) == (row.id in played)


def test_the_words_of_a_row_are_the_gateways() -> None:
    words, phases = source(), (ROOT / "backends" / "failure.py").read_text()
    with looped(sum(count for _, _, count, _ in GROUPS)) as loop:
        for row in FAULTS:
            with loop.case(row.id):
                for word in CODE.findall(row.gets):
                    timeout = word.removeprefix("upstream_timeout_")
                    assert f'"{word}"' in words or (timeout != word and f'"{timeout}"' in phases), word


def test_the_page_is_fresh() -> None:
    made = page().rstrip("\n") + "\n"
    assert (ROOT / "docs" / "faults.md").read_text() == made, (
        "write it anew: python -m tests.faults.catalogue > docs/faults.md"
    )
