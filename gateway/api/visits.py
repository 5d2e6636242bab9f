"""What the log says of requests that no engine serves: scrapes, probes, and the operators' own.

Rules:
- One that succeeds is said at `debug` only. A probe or a scrape that fails is said when it begins to fail and when it
  succeeds again, not each time: who asks every second would fill the log.
- Nothing that a client wrote is said above `debug`.
"""

from __future__ import annotations

import logging
from typing import Final

log = logging.getLogger("gateway.visits")

READY: Final = "/readyz"
WATCHED: Final = frozenset(("/healthz", READY, "/metrics"))
"""The paths that machines ask again and again."""


class Visits:
    """The answers to requests that no engine serves."""

    def __init__(self) -> None:
        self._failing: dict[str, int] = {}
        """Watched paths that fail now, with their status."""

    def answered(self, method: str, path: str, status: int) -> None:
        """Take note of an answer that begins."""
        if path in WATCHED:
            before = self._failing.get(path, 0)
            if status >= 400:
                self._failing[path] = status
                if status != before:
                    # That it is not ready yet, or about to stop, is what this path is there to say.
                    log.log(
                        logging.INFO if path == READY else logging.WARNING,
                        "%s is answered with %d",
                        path,
                        status,
                    )
            elif before:
                del self._failing[path]
                log.info("%s is answered with %d again", path, status)
        log.debug("%s %s: %d", method, path, status)
