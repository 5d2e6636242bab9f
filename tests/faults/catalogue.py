"""The fault catalogue: everything that is known to go wrong, what the client gets then, and the test that proves it.

Rules:
- One row for each fault: U of engines, S of slow or rude clients, C of wrong requests, D of stopping. Numbers stay.
- A row names its tests as `file::test` under `tests/`, or says why it does not apply yet; `test_catalogue` checks both.
- `docs/faults.md` is made of these rows: `python -m tests.faults.catalogue > docs/faults.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.faults.catalogue_of_clients import CLIENTS, REQUESTS, STOPPING
from tests.faults.catalogue_of_engines import ENGINES
from tests.faults.catalogue_row import Fault

GROUPS: tuple[tuple[str, str, int, tuple[Fault, ...]], ...] = (
    ("An engine …", "U", 56, ENGINES),
    ("A client …", "S", 15, CLIENTS),
    ("A request with …", "C", 35, REQUESTS),
    ("The gateway stops, and …", "D", 7, STOPPING),
)
FAULTS = tuple(row for *_, rows in GROUPS for row in rows)

HEAD = """# When something goes wrong

What the client gets for each fault that is known. The tests play each of them against a real gateway over real sockets;
whatever the fault, nothing may be held or left open afterwards, and the next request must work.

Where an engine fails before its first token, the client gets what is listed only if no other backend of the model can
answer: 502, 503 and 504 mean that all attempts are spent. Such a failure is one line in the log, with the request's id,
and one count in `gateway_attempts_total`. *The event* is an SSE event `{"error": {...}}` in a stream that had begun;
the connection is cut behind it, without `[DONE]`. The settings named here are in [configuration.md](configuration.md).

This page is made from `tests/faults/catalogue.py`, which names the test of each row.
"""


def page() -> str:
    """`docs/faults.md`."""
    return "\n".join([HEAD, *_tables()])


def _tables() -> Iterator[str]:
    for title, _, _, rows in GROUPS:
        yield f"## {title}\n\n| | fault | what the client gets |\n|---|---|---|"
        for row in rows:
            gets = row.gets if row.proofs else f"*not yet:* {row.gets}"
            yield f"| {row.id} | {row.what} | {gets} |"
        yield ""


if __name__ == "__main__":
    sys.stdout.write(page().rstrip("\n") + "\n")
