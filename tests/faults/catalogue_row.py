"""One row of the fault catalogue, and short names for the files its tests are in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One row. `proofs` is empty where it does not apply yet, and `gets` says why."""

    id: str
    what: str
    gets: str
    proofs: tuple[str, ...]


def fault(id: str, what: str, gets: str, *proofs: str) -> Fault:
    return Fault(id, what, gets, proofs)


def not_yet(id: str, what: str, why: str) -> Fault:
    return Fault(id, what, why, ())


UPSTREAM = "faults/test_upstream.py::test_fault"
CONNECTIONS = "faults/test_connections.py::test_"
STREAMS = "faults/test_streams.py::test_"
RECOVERY = "faults/test_recovery.py::test_"
LEAVING = "faults/test_leaving.py::test_"
SLOW = "faults/test_slow_clients.py::test_"
WIRE = "faults/test_wire_requests.py::test_"
DOOR = "wire/test_front_door.py::test_"
BAD_BODY = "api/test_bad_requests.py::test_bad_body"
BODIES = "faults/test_bodies.py::test_"
HEADERS = "faults/test_headers.py::test_"
TENANTS = "faults/test_tenants.py::test_"
DRAIN = "faults/test_drain.py::test_"
