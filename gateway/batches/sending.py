"""How a batch has one request answered, and what the answer is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from backends.base import Operation


class Answer(NamedTuple):
    """The answer to one request of a batch. `body` is None where it was too long to be kept."""

    status: int
    request_id: str
    retry_after: float | None
    """Seconds after which it may be sent again, where the answer says so."""
    body: bytes | None
    hopeful: bool = False
    """Whether the error is one that a backend which is not there now may make good."""


Send = Callable[[str, Operation, bytes], Awaitable[Answer]]
"""Has a request of this key (its name), of this kind and with this body, answered as any other is.

Raises nothing: an error is an answer. Where its task is cancelled the request ends, with an error for an answer.
"""
