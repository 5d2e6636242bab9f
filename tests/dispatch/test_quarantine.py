"""The requests that are refused because engines died of them: the bookkeeping with numbers for time."""

from __future__ import annotations

import pytest

from gateway.dispatch.quarantine import KEPT, MOST, Quarantine
from gateway.errors import GatewayError
from gateway.fleet.known import Death


def died(
    quarantine: Quarantine, request: int, at: float, *, confirmed: bool = True, backend: str = "a"
) -> Death:
    death = Death(request, f"req-{request}", backend, at)
    death.confirmed = confirmed
    quarantine.suspect(death)
    return death


def refused(quarantine: Quarantine, request: int, now: float) -> GatewayError | None:
    return quarantine.refusal(request, now)


def test_two_confirmed_deaths_and_it_is_refused_for_some_minutes(caplog: pytest.LogCaptureFixture) -> None:
    quarantine = Quarantine()
    died(quarantine, 1, 0.0)
    assert refused(quarantine, 1, 1.0) is None
    died(quarantine, 1, 10.0, backend="b")
    for now in (11.0, 12.0):
        error = refused(quarantine, 1, now)
        assert error is not None
        assert (error.status, error.code) == (400, "request_refused")
    assert refused(quarantine, 2, 12.0) is None
    [line] = [record.getMessage() for record in caplog.records]
    assert "req-1" in line and "'a' and 'b'" in line
    assert refused(quarantine, 1, KEPT + 1.0) is None


def test_a_suspicion_alone_refuses_nothing() -> None:
    quarantine = Quarantine()
    for at in range(10):
        died(quarantine, 1, float(at), confirmed=False)
    assert refused(quarantine, 1, 11.0) is None


def test_it_is_bounded_and_forgets() -> None:
    quarantine = Quarantine()
    for number in range(10 * MOST):
        died(quarantine, number, 0.0)
    assert len(quarantine.deaths) == MOST
    assert refused(quarantine, 1, KEPT + 1.0) is None
    assert quarantine.deaths == []
