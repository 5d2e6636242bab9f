"""What a batch does after an answer: for every error there is, whether it waits, tries again or takes it as it is."""

from __future__ import annotations

import pytest

from backends.base import Kind
from gateway.batches.again import Verdict, code_of, pause, verdict
from gateway.errors import ROWS, GatewayError, Own

WAITED_FOR = {
    *(Kind.CONNECT, Kind.UNRESOLVED, Kind.OVERLOADED, Kind.LOADING),
    *(Own.NO_BACKEND, Own.QUEUE_FULL, Own.QUEUE_TIMEOUT, Own.QUEUE_DEADLINE, Own.DRAINING, Own.STORE),
}
TRIED = {
    *(Kind.RESET, Kind.TIMEOUT, Kind.MISSING, Kind.REFUSED, Kind.FAILED, Kind.GARBLED),
    *(Own.SLOW_CLIENT, Own.INTERNAL),
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_error_of_the_gateway_has_its_verdict(kind: Kind | Own) -> None:
    error = GatewayError(kind, "why")
    wanted = Verdict.WAIT if kind in WAITED_FOR else Verdict.TRY if kind in TRIED else Verdict.FAILED
    assert verdict(error.status, code_of(error.body())) is wanted


def test_an_answer_is_done_and_too_many_requests_are_waited_out() -> None:
    assert verdict(200, "") is Verdict.DONE
    assert verdict(429, "rate_limit_exceeded") is Verdict.WAIT
    assert verdict(301, "") is Verdict.FAILED


def test_pauses_grow_to_a_bound_and_keep_to_what_the_answer_asks_for() -> None:
    pauses = [pause(tries, None) for tries in range(1, 60)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, 30.0)
    assert pause(1, 5.0) == 5.0
    assert pause(9, 1.0) == 30.0
    assert pause(1, 9999.0) == 30.0


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error":"x"}', b'{"error":{"code":7}}', b"\xff"])
def test_an_answer_without_a_code_has_none(body: bytes) -> None:
    assert code_of(body) == ""
