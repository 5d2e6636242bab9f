"""Many small cases in one test, for suites whose cases take microseconds: a test for each would cost far more.

Rules:
- A failure names its case.
- A suite says how many cases it has, so that it cannot become empty unnoticed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Loop:
    """Counts the cases of one test."""

    def __init__(self) -> None:
        self.ran = 0

    @contextlib.contextmanager
    def case(self, *what: object) -> Iterator[None]:
        """Run one case. `what` identifies it in the message of a failure."""
        self.ran += 1
        try:
            yield
        except BaseException as error:
            error.add_note(f"in case {self.ran}: {', '.join(map(repr, what))}")
            raise


@contextlib.contextmanager
def looped(count: int) -> Iterator[Loop]:
    """Run the cases of one test, of which there must be exactly `count`."""
    loop = Loop()
    yield loop
    assert loop.ran == count, f"{loop.ran} cases instead of {count}: change the number where that is meant"
