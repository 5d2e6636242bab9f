"""How tests are spread over processes with pytest-xdist: which of them stay together, because they share what is dear.

Rules:
- The tests of a file run in one process, one after the other, unless they are named below.
- Only test ids are known here. (Marks are not: `xdist_group` of pytest-xdist 3.8 is without effect on pytest 9.2.)
- The biggest groups begin first; what is left at the end is small.
- A test that ended its process has failed, and is not run again.
"""

from __future__ import annotations

import re
from typing import Any

from xdist.scheduler import LoadScopeScheduling

ALONE = re.compile(
    r"tests/(bench|fleet|models)/"
    r"|tests/faults/(?!test_bodies|test_wire_requests)"  # these two share a gateway and a loop
    r"|tests/clients/test_each_client"
    r"|tests/test_(adding_an_engine|cli|readme|workers)\.py"
)
"""Where a test costs so much more than what it shares that each goes wherever there is room."""
RECORDINGS = re.compile(r"test_conformance\.py::test_recordings\[(.+)-\w+\]$")
"""A check on an engine's recordings: those of one engine share a gateway."""


def group_of(nodeid: str) -> str:
    """Return the name of the group that a test belongs to; tests of one group run in one process."""
    if recorded := RECORDINGS.search(nodeid):
        return f"recordings of {recorded[1]}"
    return nodeid if ALONE.match(nodeid) else nodeid.partition("::")[0]


class Groups(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Hands out one group after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def remove_node(self, node: Any) -> str | None:
        """Take a process out. Return the test that ended it, if one did; the others of its groups go elsewhere."""
        groups = self.assigned_work[node].values()
        ended = next((test for group in groups for test, done in group.items() if not done), None)
        for group in groups:
            if ended in group:
                # xdist hands out again what is not done, and would lose a process to this test each time.
                group[ended] = True
        super().remove_node(node)
        return ended
