"""What clients may ask for of files and batches, and how they are told that they may not."""

from __future__ import annotations

from gateway.batches.records import LONGEST, SHORTEST
from gateway.errors import GatewayError, Own


def invalid(message: str, param: str | None = None, code: str | None = None) -> GatewayError:
    """Return the error for a request that is wrong."""
    return GatewayError(Own.INVALID, message, param=param, code=code)


def expiry(anchor: str, seconds: int, param: str) -> int:
    """Return the seconds after which something expires. Raises GatewayError where a client may not say so."""
    if anchor != "created_at":
        raise invalid("the anchor must be 'created_at'", f"{param}.anchor")
    if not SHORTEST <= seconds <= LONGEST:
        raise invalid(f"it must be {SHORTEST} to {LONGEST} seconds", f"{param}.seconds")
    return seconds
