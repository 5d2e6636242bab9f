"""Which members of a request an engine's adapter leaves out, as the client is told in `x-gateway-dropped`.

Rules:
- A member is told if it asks for something that could change the answer. What asks for nothing, and what only names the
  sender or asks for bookkeeping, is left out without a word.
- The names are the client's own: only ones that are safe in a header are told, and not more than 16.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

_IDLE = (b"null", b"false", b"0", b"0.0", b'""', b"[]", b"{}")
"""Values that ask for nothing."""
_USUAL: Mapping[str, tuple[bytes, ...]] = {
    "n": (b"1", b"1.0"),
    "best_of": (b"1", b"1.0"),
    "parallel_tool_calls": (b"true",),
    "modalities": (b'["text"]', b"[]"),
    "verbosity": (b'"medium"',),
    "temperature": (b"1", b"1.0"),
    "seed": (),
    "top_p": (b"1", b"1.0"),
    "top_k": (b"-1", b"0"),
    "repetition_penalty": (b"1", b"1.0"),
    "length_penalty": (b"1", b"1.0"),
    "add_generation_prompt": (b"true",),
    "skip_special_tokens": (b"true",),
    "spaces_between_special_tokens": (b"true",),
}
"""Values that ask for what happens anyway, of members for which one of `_IDLE` may ask for something."""

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


def asks_for_nothing(name: str, value: bytes) -> bool:
    """Return whether a member with this value asks for nothing that would not be without it."""
    usual = _USUAL.get(name)
    if usual is None:
        return value in _IDLE
    return value == b"null" or value.replace(b" ", b"") in usual


def dropped(members: Mapping[str, bytes], kept: Container[str]) -> tuple[str, ...]:
    """Return the names of the members that are not `kept`; `members` are a request's, with the JSON of their values."""
    return tellable(
        [
            name
            for name, value in members.items()
            if name not in kept and name not in _WITHOUT_EFFECT and not asks_for_nothing(name, value)
        ]
    )


def tellable(names: Iterable[str]) -> tuple[str, ...]:
    """Return those names that a header can hold, each once."""
    found: list[str] = []
    for name in names:
        if len(found) == _MOST:
            break
        if len(name) <= _LONGEST and name.isascii() and name.isidentifier() and name not in found:
            found.append(name)
    return tuple(found)
