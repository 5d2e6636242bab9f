"""Which members of a request an engine's adapter leaves out, as the client is told in `x-gateway-dropped`.

Rules:
- A member is told if it asks for something that could change the answer. What asks for nothing, and what only names the
  sender or asks for bookkeeping, is left out without a word.
- The names are the client's own: only ones that are safe in a header are told, and not more than 16.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

IDLE = (b"null", b"false", b"0", b"0.0", b'""', b"[]", b"{}")
"""Values that ask for nothing."""

_WITHOUT_EFFECT = frozenset(
    (
        "metadata",
        "model",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    )
)
_MOST = 16
_LONGEST = 64


def dropped(members: Mapping[str, bytes], kept: Container[str]) -> tuple[str, ...]:
    """Return the names of the members that are not `kept`; `members` are a request's, with the JSON of their values."""
    found: list[str] = []
    for name, value in members.items():
        if name in kept or name in _WITHOUT_EFFECT or value in IDLE:
            continue
        if len(name) <= _LONGEST and name.isascii() and name.isidentifier() and len(found) < _MOST:
            found.append(name)
    return tuple(found)
