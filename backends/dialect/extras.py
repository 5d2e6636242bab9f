"""What an engine tells beside its token counts, for a client that asked for no counts: llama.cpp's `timings`, for one.

Rules:
- Of the event with the counts the rest is kept, if there is any beyond what every event has.
- Clients that did not ask for counts read `choices[0]` of every event, so it gets a choice that says nothing.
"""

from __future__ import annotations

from typing import Final

from backends.dialect import rewrite

_ENVELOPE: Final = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"}
)
"""The members that every event has."""
_NOTHING: Final = (b"null", b"{}", b"[]", b'""')
_CHAT: Final = b'[{"index":0,"delta":{},"logprobs":null,"finish_reason":null}]'
_COMPLETION: Final = b'[{"index":0,"text":"","logprobs":null,"finish_reason":null}]'


def without_usage(payload: bytes) -> bytes:
    """Return an event without choices as the client gets it that asked for no usage; empty if nothing else is told."""
    told = rewrite.members(payload)
    if all(name in _ENVELOPE or value in _NOTHING for name, value in told.items()):
        return b""
    told.pop("usage", None)
    told["choices"] = _COMPLETION if told.get("object") == b'"text_completion"' else _CHAT
    return rewrite.joined(told)
