"""What one client connection may send, how slowly, how long it may take to read, and whom to believe who it is.

Rules:
- Values only. `gateway.wire.door` and `gateway.wire.server` keep them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.proxies import Proxies

FRAMING: Final = 256 << 10
"""Most bytes besides head and body, such as chunk sizes and extensions. Each byte of the body allows eight more."""
AHEAD: Final = 64 << 10
"""Most bytes of later requests that are read before the current answer is complete."""
LONGEST_HEAD: Final = 16 << 10
"""Most bytes of a head that the front door reads; the configured limit may be lower."""
FORM: Final = 64 << 10
"""Bytes that the form around an uploaded file may have."""
UPLOADS: Final = b"/files"
"""How the paths of uploads end, in every way to write them."""
GLANCE: Final = 1.0
"""Seconds between checks whether a client is still connected while reading from it is paused."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may send and how slowly, in bytes and seconds."""

    body: int = 10 << 20
    upload: int = 0
    """The largest body of an upload, if that is more than `body`; 0 where nothing can be uploaded."""
    headers: int = 32 << 10
    header_count: int = 100
    url: int = 8 << 10
    connections: int = 10_000
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    write_seconds: float = 60.0
    proxies: Proxies = field(default_factory=lambda: Proxies(()))

    def of(self, url: bytes) -> tuple[int, float]:
        """Return how large the body of a request to this URL may be, and how many seconds it may take to come.

        An upload may take as much longer as it may be larger.
        """
        path = url.partition(b"?")[0].rstrip(b"/")
        if not path.endswith(UPLOADS) or self.upload <= self.body:
            return self.body, self.body_seconds
        return self.upload, self.body_seconds * (self.upload / self.body)
