"""A backend that came back gets its share of the requests little by little."""

from __future__ import annotations

from random import Random

import pytest

from backends.base import Health
from backends.engines.openai import OpenAI
from gateway.balance.basic import LeastLoaded, RoundRobin
from gateway.balance.loaded import Balancer
from gateway.config.defaults import Timeouts
from gateway.fleet.backend import SLOW_START, SLOW_START_FLOOR, Backend
from gateway.fleet.breaker import Breaker, Settings
from gateway.fleet.lease import Target, pick
from gateway.telemetry.metrics import Metrics
from gateway.wire.clocks import Clocks


def target_of(name: str, failures: int = 5) -> Target:
    metrics = Metrics("")
    breaker = Breaker(Random(1), Settings(consecutive=failures, pause=1.0, jitter=0.0, trials=1))
    backend = Backend(name, OpenAI(), metrics, breaker, ("m",))
    backend.locate("http://127.0.0.1:9")
    backend.note(Health.READY)
    return Target(backend, "m", metrics.target("m", name), Clocks(Timeouts()))


def share(targets: list[Target], balancer: Balancer, now: float, requests: int = 200) -> float:
    """Return the share of so many requests, one after the other, that the first target gets."""
    taken = 0
    for _ in range(requests):
        lease = pick(targets, balancer, now)
        assert lease is not None
        taken += lease.target is targets[0]
        lease.succeeded(now)
        lease.close(now)
    return taken / requests


def test_the_share_grows_with_time() -> None:
    targets, balancer = [target_of("back"), target_of("steady")], RoundRobin()
    assert share(targets, balancer, 0.0) == 0.5
    targets[0].backend.note(Health.DOWN)
    targets[0].backend.note(Health.READY)
    parts = [share(targets, balancer, 100.0 + SLOW_START * part) for part in (0.0, 0.25, 0.5, 1.0)]
    expected = [part / (1 + part) for part in (SLOW_START_FLOOR, 0.25, 0.5, 1.0)]
    assert parts == pytest.approx(expected, abs=0.02)


def test_under_load_it_gets_as_much_less() -> None:
    targets, balancer = [target_of("back"), target_of("steady")], LeastLoaded(Random(1))
    targets[0].backend.note(Health.DOWN)
    targets[0].backend.note(Health.READY)
    leases = [pick(targets, balancer, 7.0) for _ in range(44)]
    running = [target.in_flight for target in targets]
    assert running == [4, 40]
    for lease in leases:
        assert lease is not None
        lease.close(7.0)


def test_a_breaker_that_closes_begins_it() -> None:
    target = target_of("back", failures=1)
    backend = target.backend
    for now, good in ((0.0, False), (2.0, True)):
        assert backend.slow_start_weight == 1.0
        lease = pick([target], RoundRobin(), now, last_resort=True)
        assert lease is not None
        if good:
            lease.heard(now)
        else:
            lease.failed(now)
        lease.close(now)
    assert not backend.breaker.open
    assert backend.slow_start_weight == SLOW_START_FLOOR


def test_one_alone_takes_all() -> None:
    target = target_of("back")
    target.backend.note(Health.DOWN)
    target.backend.note(Health.READY)
    assert share([target], RoundRobin(), 1.0) == 1.0
