"""Which failures count against a backend, where the request itself may be their reason."""

from __future__ import annotations

from gateway.fleet.evidence import Evidence


def test_one_request_that_fails_again_and_again_counts_never() -> None:
    evidence = Evidence()
    assert [evidence.failed_here(1) for _ in range(100)] == [0] * 100


def test_different_requests_that_fail_count_both_and_then_each() -> None:
    evidence = Evidence()
    assert [evidence.failed_here(request) for request in (1, 1, 2, 3, 1)] == [0, 0, 2, 1, 1]


def test_a_success_between_makes_different_requests_single_ones() -> None:
    evidence = Evidence()
    counted = []
    for request in range(50):
        counted.append(evidence.failed_here(request))
        evidence.clear()
    assert counted == [0] * 50
    assert evidence.empty


def test_what_another_backend_serves_makes_the_next_failure_count() -> None:
    evidence = Evidence()
    evidence.served_elsewhere()
    assert not evidence.empty
    assert evidence.failed_here(7) == 1


def test_a_request_that_fails_at_two_backends_counts_at_neither() -> None:
    evidence = Evidence()
    assert [evidence.failed_at_two(1, 5) for _ in range(100)] == [0] * 100
    assert evidence.failed_here(2) == 0, "what is the request's own says nothing about others"


def test_so_many_different_ones_that_fail_at_two_backends_do_count() -> None:
    evidence = Evidence()
    assert [evidence.failed_at_two(request, 5) for request in (1, 2, 2, 3, 4, 5)] == [0, 0, 0, 0, 0, 5]


def test_a_success_between_them_starts_anew() -> None:
    evidence = Evidence()
    for request in range(4):
        assert evidence.failed_at_two(request, 5) == 0
    evidence.clear()
    assert [evidence.failed_at_two(request, 5) for request in range(4)] == [0] * 4
