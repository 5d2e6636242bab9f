"""Which failures of requests speak against a backend, where a request itself may be the reason of its failure.

Rules:
- Pure bookkeeping: no clock, no sockets. A request is known by a number that is the same for the same body.
- A request that fails here and is served by another backend speaks against this one, at once.
- A request that failed here and that no other backend has tried counts only once another request has failed here too,
  without a success in between: an engine that fails one request again and again may be well.
- A request that failed at two backends is taken to be the reason. Only where so many different ones failed without a
  success in between that the breaker would have opened do they count: then the engines are broken, not the requests.
- A success clears everything.
"""

from __future__ import annotations


class Evidence:
    """The failures at one backend, since its last success, that may be the requests' own."""

    __slots__ = ("_certain", "_first", "_shared")

    def __init__(self) -> None:
        self._first: int | None = None
        """The first request that failed here and nowhere else."""
        self._certain = False
        """Whether the backend is known to fail requests that are not to blame."""
        self._shared: set[int] = set()
        """The requests that failed here and at another backend."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to clear."""
        return self._first is None and not self._certain and not self._shared

    def clear(self) -> None:
        """Forget all failures, because the backend has served a request."""
        self._first = None
        self._certain = False
        self._shared.clear()

    def served_elsewhere(self) -> None:
        """Record that another backend has served a request that failed here."""
        self._certain = True

    def failed_here(self, request: int) -> int:
        """Record a request that failed here and that no other backend has tried. Return how many failures count now."""
        if self._certain:
            return 1
        if self._first is None or self._first == request:
            self._first = request
            return 0
        self._certain = True
        return 2

    def failed_at_two(self, request: int, many: int) -> int:
        """Record a request that failed here and at another backend. Return how many failures count now.

        `many` is how many different requests have to fail so before they speak against the backend.
        """
        self._shared.add(request)
        if len(self._shared) < many:
            return 0
        self._shared.clear()
        return many
