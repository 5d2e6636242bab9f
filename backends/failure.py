"""What can go wrong between the gateway and an engine, as values. Everybody imports them from `backends.base`."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """What went wrong between the gateway and an engine. `gateway.errors` defines what follows from each."""

    CONNECT = "connect"
    """The engine could not be reached; nothing was sent."""
    UNRESOLVED = "unresolved"
    """The engine's host name could not be looked up; nothing was sent, and nothing is known of the engine."""
    RESET = "reset"
    """The engine closed the connection before its reply was complete."""
    TIMEOUT = "timeout"
    """A phase took longer than its limit; `Failure.phase` says which."""
    OVERLOADED = "overloaded"
    """The engine is up and refuses more work for now (429, 503)."""
    LOADING = "loading"
    """The engine is up and its model is not loaded yet."""
    REJECTED = "rejected"
    """The engine considers the client's request invalid (400, 413, 422)."""
    CONTEXT = "context"
    """The prompt does not fit into the model's context."""
    MISSING = "missing"
    """The engine does not have this model."""
    REFUSED = "refused"
    """The engine did not accept the gateway's credentials (401, 403)."""
    FAILED = "failed"
    """The engine reported an error of its own (5xx, or an error event in a stream)."""
    GARBLED = "garbled"
    """The reply violates the protocol: not HTTP, not JSON, cut off."""
    LIMIT = "limit"
    """The reply, or one event of it, is larger than a limit of the gateway's own: no verdict on the engine."""
    UNSUPPORTED = "unsupported"
    """The engine does not offer this operation."""


class Phase(enum.StrEnum):
    """The stage of an attempt at which it failed."""

    CONNECT = "connect"
    SEND = "send"
    FIRST_BYTE = "first_byte"
    FIRST_TOKEN = "first_token"
    STREAM = "stream"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Failure:
    """The facts of one attempt's failure.

    `message` may be shown to a client (no addresses, no secrets). `detail` is what the engine said, in its own words:
    they may quote the request, the answer or a key, so they are read by adapters and shown to who asked, and never
    logged. `facts` is what may be logged: words of the gateway and of the system alone. `status` is the
    engine's HTTP status, if it sent one; `retry_after` is how many seconds it asks to wait. `code` and `param` are the
    engine's own OpenAI-style fields, if it sent them. `unexplained` says that the engine gave no reason, but may give
    one if it is asked otherwise. `engine_lives` says that the engine is well, as far as this failure tells: it counts
    against its backend only where another one serves the same request.
    """

    kind: Kind
    message: str
    phase: Phase | None = None
    status: int | None = None
    retry_after: float | None = None
    code: str | None = None
    param: str | None = None
    detail: str = ""
    facts: str = ""
    unexplained: bool = False
    engine_lives: bool = False

    @property
    def logged(self) -> str:
        """Return one line for a log: the message, unless it is the engine's own words, and the facts."""
        said = f"the engine's answer was taken as '{self.kind}'"
        if not self.detail or self.detail not in self.message:
            said = self.message
        facts = self.facts
        if self.status is not None:
            facts = f"status {self.status}, {facts}" if facts else f"status {self.status}"
        return f"{said} ({facts})" if facts else said
