"""Rates, shares and percentiles from two pages of metrics: pure functions, one table each."""

from __future__ import annotations

from math import inf

import pytest

from gateway.console.rates import (
    Look,
    buckets,
    faults_so_far,
    percentile,
    read,
    restarted,
    total,
    traffic,
)
from gateway.telemetry.metrics import Metrics


def page(
    ok: int = 0, failed: int = 0, out: int = 0, first: tuple[float, ...] = (), backend: str = "a"
) -> str:
    """Return a page as the gateway makes it, after so many requests for the model `m`."""
    metrics = Metrics("9")
    metrics.requests.finished.cell("m", backend, "e", "-", "chat", "ok").value = ok
    metrics.requests.finished.cell("m", backend, "e", "-", "chat", "timeout").value = failed
    metrics.requests.finished.cell("m", backend, "e", "-", "chat", "client_gone").value = ok
    cells = metrics.target("m", backend)
    cells.output_tokens.value = out
    cells.input_tokens.value = 2 * out
    cells.in_flight.value = 3
    for seconds in first:
        metrics.requests.first_token.cell("m", backend, "e", "-").observe(seconds)
    return "".join(metrics.pieces())


def look(at: float, text: str, running: int = 0, backend: str = "a") -> Look:
    return Look(at, read(text), {("m", backend): running})


def test_a_page_is_read_with_its_labels_as_they_were() -> None:
    metrics = Metrics("9")
    metrics.requests.finished.cell('a "b"\\\n}', "c", "e", "-", "chat", "ok").value = 7
    metrics.requests.duration.cell("m", "c", "e", "-", "ok").observe(1)
    read_page = read("".join(metrics.pieces()))
    [sample] = read_page["gateway_requests_total"]
    assert (sample.labels["model"], sample.value) == ('a "b"\\\n}', 7)
    assert total(read_page, "gateway_requests_total", {"backend": "c"}) == 7
    assert total(read_page, "gateway_requests_total", {"backend": "x"}) == 0
    assert "gateway_request_duration_seconds_count" not in read_page


def test_what_happened_between_two_looks() -> None:
    old = look(100.0, page(ok=10, failed=1, out=50, first=(0.02,) * 5), running=7)
    new = look(110.0, page(ok=18, failed=5, out=150, first=(0.02,) * 5 + (0.3,) * 4), running=27)
    found = traffic(old, new)
    assert found is not None
    assert found.requests == pytest.approx(2.0)
    assert found.faults == pytest.approx(4 / 20)
    assert (found.tokens_in, found.tokens_out) == (20.0, 12.0)
    assert found.p50 == pytest.approx(0.375) and found.p95 == pytest.approx(0.4875)
    assert traffic(old, new, "backend", "a") == found == traffic(old, new, "model", "m")


def test_nothing_is_said_of_what_did_not_happen() -> None:
    old, new = look(1.0, page(ok=10, first=(0.1,))), look(2.0, page(ok=10, first=(0.1,)))
    for found in (traffic(old, new), traffic(old, new, "backend", "b")):
        assert found is not None
        assert (found.requests, found.faults, found.p50, found.p95) == (0, None, None, None)
    assert traffic(new, new) is None
    assert faults_so_far(read(page())) == (0, 0)
    assert faults_so_far(read(page(ok=10, failed=2))) == (22, 2)


def test_tokens_that_are_counted_at_the_end_are_not_counted_twice() -> None:
    running, over = look(1.0, page(out=100), running=40), look(2.0, page(out=145))
    found = traffic(running, over)
    assert found is not None and found.tokens_out == 5
    fewer = traffic(running, look(2.0, page(out=138)))
    assert fewer is not None and fewer.tokens_out == 0


@pytest.mark.parametrize(
    ("old", "new", "again"),
    [
        (page(ok=5), page(ok=6), False),
        (page(ok=5), page(ok=5), False),
        (page(ok=5), page(ok=4), True),
        (page(out=5), page(), True),
        (page(first=(1.0,)), page(first=(0.1,)), False),
        (page(first=(0.1,)), page(first=(1.0,)), True),
        (page(ok=5), page(ok=9, backend="b"), True),
        (page(), page(ok=9), False),
    ],
)
def test_another_gateway_is_noticed_by_counters_that_go_down(old: str, new: str, again: bool) -> None:
    assert restarted(look(1.0, old), look(2.0, new)) is again


@pytest.mark.parametrize(
    ("within", "share", "value"),
    [
        ({}, 0.5, None),
        ({0.1: 0.0, inf: 0.0}, 0.5, None),
        ({0.1: 10.0, inf: 10.0}, 0.5, 0.05),
        ({0.1: 10.0, inf: 10.0}, 1.0, 0.1),
        ({0.1: 5.0, 0.2: 10.0, inf: 10.0}, 0.5, 0.1),
        ({0.1: 5.0, 0.2: 10.0, inf: 10.0}, 0.75, 0.15),
        ({0.1: 0.0, 0.2: 4.0, inf: 4.0}, 0.5, 0.15),
        ({0.1: 1.0, 0.2: 1.0, 0.4: 2.0, inf: 2.0}, 0.75, 0.3),
        ({0.1: 1.0, inf: 10.0}, 0.5, inf),
        ({inf: 3.0}, 0.5, inf),
    ],
)
def test_percentiles_from_buckets(within: dict[float, float], share: float, value: float | None) -> None:
    found = percentile(within, share)
    assert found == (None if value is None else pytest.approx(value))


def test_buckets_of_several_targets_add_up() -> None:
    metrics = Metrics("9")
    for backend, seconds in (("a", 0.004), ("b", 0.006), ("b", 5000.0)):
        metrics.requests.first_token.cell("m", backend, "e", "-").observe(seconds)
    everything = read("".join(metrics.pieces()))
    assert (buckets(everything)[0.005], buckets(everything)[0.01], buckets(everything)[inf]) == (1, 2, 3)
    assert buckets(everything, "backend", "b")[inf] == 2
