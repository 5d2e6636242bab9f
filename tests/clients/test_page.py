"""docs/clients.md: it has what is declared, and says what the tests came to, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import page
from tests.clients.declared import CLIENTS, WAYS
from tests.clients.page import Ran

TESTS = Path(__file__).resolve().parent
WRITTEN = page.PAGE.read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line[:1] == "|"
    ]


def every(outcome: str = "passed") -> list[Ran]:
    return [Ran(begin, outcome) for client in CLIENTS for begin in client.proofs]


def test_the_page_has_every_client_as_it_is_declared() -> None:
    written, made = rows(WRITTEN), rows(page.page(every()))
    sessions = {page.shown(client) for client in CLIENTS if client.tests}
    # What sessions showed is known only when they are run; everything else follows from what is declared.
    told = [row for row in written if len(row) == 2 and row[0] in sessions]
    assert [row for row in written if row not in told] == [
        row for row in made if len(row) != 2 or row[0] not in sessions
    ]
    assert {row[0] for row in told} == sessions and all(row[1] for row in told)


def test_the_page_names_only_tests_that_there_are() -> None:
    there = {
        line.split("(")[0].removeprefix("async ").removeprefix("def test_").replace("_", " ")
        for file in TESTS.glob("test_*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith(("def test_", "async def test_"))
    }
    sessions = {page.shown(client) for client in CLIENTS if client.tests}
    said = [row[1] for row in rows(WRITTEN) if len(row) == 2 and row[0] in sessions]
    named = {one.split(" (")[0] for cell in said for one in cell.split("; ")}
    assert named and named <= there


def test_declared_clients_can_be_run() -> None:
    names = [client.name for client in CLIENTS]
    assert len(set(names)) == len(names)
    for client in CLIENTS:
        assert not client.program or (TESTS / "programs" / client.program).is_file()
        assert client.program or client.tests
        for begin in client.tests:
            assert list(TESTS.glob(begin.partition("::")[0].removesuffix(".py") + "*.py")), begin
        for dialect in client.dialects:
            assert all(client.checked(dialect, model) for model in WAYS[dialect])


@pytest.mark.parametrize("outcome", ["skipped", "failed"])
def test_the_page_is_not_written_where_a_client_was_not_proved(outcome: str) -> None:
    ran = [*every()[:-1], Ran(CLIENTS[-1].proofs[0], outcome)]
    assert [line.split(":")[0] for line in page.missing(ran)] == [CLIENTS[-1].name]
    assert page.missing(every()) == [] and len(page.missing([])) == len(CLIENTS)


def test_the_page_is_the_same_whatever_order_the_tests_ended_in() -> None:
    ran = [*every(), Ran("test_curl.py::test_a", "passed"), Ran("test_curl.py::test_b", "passed")]
    assert "; a; b |" in page.page(ran)
    assert page.page(ran[::-1]) == page.page(ran)


def test_results_are_read_as_pytest_writes_them(tmp_path: Path) -> None:
    case = '<testcase classname="tests.clients.test_{0}" name="test_it[a-b]" time="1">{1}</testcase>'
    cases = case.format("a", "") + case.format("b", "<skipped/>") + case.format("c", "<failure/>")
    (tmp_path / "results.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert page.read(tmp_path / "results.xml") == [
        Ran("test_a.py::test_it[a-b]", "passed"),
        Ran("test_b.py::test_it[a-b]", "skipped"),
        Ran("test_c.py::test_it[a-b]", "failed"),
    ]
