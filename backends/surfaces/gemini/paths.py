"""What a path and a query of Google's API ask for: which operation, of which model, in which form.

Rules:
- Google's clients name the model in the path and the stream by the method behind its colon. The body that the gateway
  reads has these as members, `model`, `stream` and `alt`, whatever the client's body says of them.
- A slash in a model's name may stand as it is or be encoded. A name with a step of a path in it (`.`, `..`, nothing) is
  refused: it is none that a config can have, and a proxy in front of the gateway would take another path for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from backends.base import Operation
from backends.dialect.members import Members
from backends.surfaces.surface import InvalidRequest

PREFIXES: Final = ("/v1beta/models/", "/v1/models/")
"""Under the second one OpenAI's API has no path that takes POST."""
_STREAMED: Final = "streamGenerateContent"
_METHODS: Final[Mapping[str, Operation]] = {
    "generateContent": Operation.GEMINI_GENERATE,
    _STREAMED: Operation.GEMINI_GENERATE,
    "countTokens": Operation.GEMINI_COUNT_TOKENS,
    "embedContent": Operation.GEMINI_EMBED,
    "batchEmbedContents": Operation.GEMINI_BATCH_EMBED,
}
_EVENTS: Final = "sse"
"""The value of `alt` that asks for server-sent events."""


class Meant(NamedTuple):
    """What a path means."""

    operation: Operation
    model: str
    streams: bool
    """Whether the answer comes piece by piece."""


def meant(path: str) -> Meant | None:
    """Return what a path that takes POST means, decoded but for slashes (`%2F`); None where it is none of Google's."""
    for prefix in PREFIXES:
        if path.startswith(prefix):
            name, _, method = path[len(prefix) :].rpartition(":")
            operation = _METHODS.get(method)
            if operation is not None:
                return Meant(operation, name.replace("%2F", "/"), method == _STREAMED)
    return None


def is_of_google(path: str) -> bool:
    """Tell whether Google's clients ask at a path, and no others."""
    return path.startswith("/v1beta/") or meant(path) is not None


def check_name(model: str) -> None:
    """Raise InvalidRequest where a model's name has a step of a path in it."""
    if any(step in ("", ".", "..") for step in model.split("/")):
        raise InvalidRequest("the path names no model: expected /v1beta/models/NAME:METHOD", param="model")


def whole(body: bytes, model: str, streams: bool, events: bool) -> bytes:
    """Return a body with what its path and its query say; one that is no object as it is.

    `events`: the pieces of a stream are server-sent events, else the items of one list.
    """
    try:
        members = Members(body)
    except (ValueError, RecursionError):
        return body
    members.put("model", msgspec.json.encode(model))
    members.put("stream", b"true" if streams else b"false")
    members.put("alt", b'"sse"' if events else b'"json"')
    return members.body()


def has_events(alt: str | None) -> bool:
    """Tell whether a query's, or a body's, `alt` asks for server-sent events."""
    return alt == _EVENTS
