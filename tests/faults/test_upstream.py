"""Every row of the upstream fault catalogue, played against a gateway by an engine alone and by one beside another."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.faults.rows_of_answers import ANSWERS
from tests.faults.rows_of_connections import CONNECTIONS
from tests.faults.rows_of_streams import STREAMS
from tests.faults.support import FAULTY, HEALTHY, PROMPT, SECRET, Stage, asked, stage, text_of, undisturbed
from tests.faults.upstream_rows import Case, Cut, Expected, Fine, Refused
from tests.serving import Answer

CASES = CONNECTIONS + ANSWERS + STREAMS
PLAYS = [
    (case, streamed)
    for case in CASES
    for streamed in (False, True)
    if (case.stream if streamed else case.whole)
]
HEADERS = {
    "content-type", "content-length", "transfer-encoding", "connection", "date", "cache-control", "x-accel-buffering",
    "x-request-id", "x-gateway-decision", "x-gateway-backend", "x-gateway-model", "x-gateway-attempts", "retry-after",
    "x-should-retry",
}  # fmt: skip
CLIENTS_OWN = (400, 413, 422)
OUTCOMES = {
    **dict.fromkeys(CLIENTS_OWN, "client_error"),
    502: "upstream_error",
    503: "overloaded",
    504: "timeout",
}  # fmt: skip


def check_fine(answer: Answer, text: str, backend: str, attempts: int) -> None:
    """Check for a complete answer of that backend."""
    assert (answer.status, answer.whole) == (200, True)
    assert text_of(answer) == text
    assert answer.headers["x-gateway-backend"] == backend
    assert answer.headers["x-gateway-attempts"] == str(attempts)
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.events.count("[DONE]") == 1 and answer.events[-1] == "[DONE]"
        assert all(line.startswith(b"data: ") for line in answer.body.split(b"\n") if line)
        assert all(event["choices"] for event in answer.events[:-1])
        assert not any(event.get("usage") for event in answer.events[:-1]), "nobody asked for it"
    else:
        assert answer.json()["choices"][0]["finish_reason"] == "stop"


def check_refused(answer: Answer, expected: Refused) -> None:
    """One clean error in OpenAI's shape."""
    assert (answer.status, answer.error["code"], answer.whole) == (expected.status, expected.code, True)
    assert ("retry-after" in answer.headers) == (expected.status == 503)
    final = expected.status == 504 or expected.code == "answer_too_large"
    assert (answer.headers.get("x-should-retry") == "false") == final


def check_cut(answer: Answer, expected: Cut) -> None:
    """Check for what came before, then an error, and no proper end."""
    assert (answer.status, answer.whole) == (200, False)
    assert answer.headers["x-gateway-backend"] == "faulty"
    *before, last = answer.events
    assert last["error"]["code"] == expected.code
    assert all("error" not in event for event in before)
    assert "[DONE]" not in before
    said = text_of(answer)
    assert "healthy" not in said
    assert said.startswith("faulty") if expected.said is None else said == expected.said


def check(answer: Answer, expected: Expected, *, elsewhere: bool) -> None:
    assert set(answer.headers) <= HEADERS
    assert PROMPT.encode() not in answer.body and SECRET.encode() not in answer.body
    if isinstance(expected, Fine):
        check_fine(answer, expected.text, "faulty", 1)
    elif isinstance(expected, Cut):
        check_cut(answer, expected)
    elif elsewhere and expected.elsewhere:
        check_fine(answer, HEALTHY, "healthy", 2)
    else:
        check_refused(answer, expected)


def check_books(at: Stage, expected: Expected) -> None:
    """Metrics and breaker after one request for `pair` and one for `alone`."""
    result = "ok" if isinstance(expected, Fine) else expected.kind
    assert at.attempts(result=result) == at.attempts() == 2
    over = isinstance(expected, Refused) and expected.elsewhere
    assert at.attempts("healthy", result="ok") == 1 + over  # the one is the undisturbed stream
    assert len(asked(at.healthy, "pair")) == over
    if isinstance(expected, Fine):
        assert at.outcomes("alone", "ok") == at.outcomes("pair", "ok") == 1
    elif isinstance(expected, Refused):
        assert at.outcomes("alone", OUTCOMES[expected.status]) == 1
        assert at.outcomes("pair", "ok" if over else OUTCOMES[expected.status]) == 1
    else:
        outcome = {"timeout": "timeout", "overloaded": "overloaded"}.get(expected.kind, "upstream_error")
        assert at.outcomes("alone", outcome) == at.outcomes("pair", outcome) == 1
    assert at.backend().breaker.open == (not isinstance(expected, Fine) and expected.counts)


@pytest.mark.parametrize(
    ("case", "streamed"), PLAYS, ids=lambda v: str(v) if isinstance(v, Case) else "stream" if v else "whole"
)
async def test_fault(case: Case, streamed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = case.stream if streamed else case.whole
    assert expected is not None
    async with stage(tmp_path, clocks=case.clocks) as at:
        at.misbehave(**case.behaviour)
        async with undisturbed(at):
            for model in ("pair", "alone"):
                check(await at.ask(model, stream=streamed, **case.ask), expected, elsewhere=model == "pair")
        check_books(at, expected)
        told = [
            r.getMessage()
            for r in caplog.records
            if r.name == "gateway.dispatch" and r.levelno >= logging.WARNING
        ]
        quiet = isinstance(expected, Fine) or (
            isinstance(expected, Refused) and expected.status in CLIENTS_OWN
        )
        assert len(told) == (0 if quiet else 2)
        assert all("backend 'faulty'" in line for line in told)
        assert SECRET not in caplog.text and PROMPT not in caplog.text
        at.misbehave()
        check_fine(await at.ask("alone", stream=streamed), FAULTY, "faulty", 1)
