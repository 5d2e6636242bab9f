"""What a caller is told when the store cannot do its part.

Rules:
- The reason is one of a few plain sentences, without paths, hosts or anything that is stored: it reaches clients.
- When the store is opened, before there are clients, it says where and how instead.
"""

from __future__ import annotations

from gateway.config.data import NEEDED_BY
from gateway.errors import GatewayError, Own


class StoreError(GatewayError):
    """The store cannot be used now; `str` of it says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(Own.STORE, f"the gateway's store cannot be used now: {reason}")
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def no_store(what: str) -> GatewayError:
    """Return the error for a request that needs a store, which this gateway has not. `what` names what needs it."""
    return GatewayError(
        Own.NO_STORE,
        f"{what} need a store, and this gateway keeps nothing: `server.data` in its config names a folder for it "
        f"({NEEDED_BY} need one)",
    )
