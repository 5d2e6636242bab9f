"""Which session a request belongs to, as far as it says so itself.

Rules:
- The sources are asked in the order of the config; the first one that says something decides.
- A session belongs to its key: the same id with two keys is two sessions.
- Whatever a client sends gives an answer; an id of any length and any bytes will do.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from gateway.asked import Asked

AGENT: Final = "agent"
"""The source that knows how coding agents name their sessions."""
PLAIN_SOURCES: Final = (AGENT, "prompt_cache_key", "user", "key")
"""Sources that are named as they are."""
NAMED_SOURCES: Final = ("header", "cookie", "metadata")
"""Sources that come with a name: `header:x-session-id`."""

AGENT_HEADERS: Final = (
    b"x-session-id",
    b"x-claude-code-session-id",
    b"session_id",
    b"session-id",
    b"x-opencode-session",
    b"x-session-affinity",
    b"conversation_id",
    b"thread-id",
    b"x-amp-thread-id",
    b"x-qwen-code-session-id",
    b"x-litellm-session-id",
)
"""The headers in which agents and tools name the session: Claude Code, Codex, OpenCode, Amp, Qwen Code, and those that
were made for other gateways."""

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text: Final = msgspec.json.Decoder(str)


class Source:
    """One place where a request may name its session."""

    __slots__ = ("_header", "_kind", "_name")

    def __init__(self, text: str) -> None:
        """Read a source as the config has it, such as `user` or `header:x-session-id`; the config has checked it."""
        kind, _, name = text.partition(":")
        self._kind: str = kind
        self._name: str = name
        self._header: bytes = name.lower().encode("latin-1", "replace")

    def find(self, asked: Asked) -> str:
        """Return what the request says here; empty where it says nothing."""
        kind = self._kind
        if kind == AGENT:
            return _agents(asked)
        if kind == "header":
            return asked.headers.get(self._header, b"").decode("latin-1")
        if kind == "user":
            return asked.user
        if kind == "metadata":
            return asked.metadata(self._name)
        if kind == "cookie":
            return _cookie(asked.headers.get(b"cookie", b""), self._header)
        if kind == "key":
            return asked.caller.name
        return asked.text(kind)


def session(sources: tuple[Source, ...], asked: Asked) -> int:
    """Return a number for the session of a request, the same in every process; 0 where it names none."""
    for source in sources:
        found = source.find(asked)
        if found:
            return number(f"{asked.caller.name}\0{found}")
    return 0


def number(text: str) -> int:
    """Return a number of 60 bits, evenly spread and not 0, that is the same for the same text on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big") >> 4 or 1


def _agents(asked: Asked) -> str:
    """Return the session that a coding agent names, in one of the ways they have."""
    headers = asked.headers
    for name in AGENT_HEADERS:
        found = headers.get(name)
        if found:
            return found.decode("latin-1")
    user = asked.metadata("user_id")
    if user:
        return _session_within(user)
    return asked.text("prompt_cache_key")


def _session_within(user: str) -> str:
    """Return the session that Claude Code writes into `metadata.user_id`: within JSON, or at the end of a name."""
    if user.startswith("{"):
        try:
            return _text.decode(_object.decode(user)["session_id"])
        except (msgspec.MsgspecError, RecursionError, KeyError):
            return ""
    _, mark, found = user.rpartition("_session_")
    return found if mark else ""


def _cookie(header: bytes, name: bytes) -> str:
    for pair in header.split(b";"):
        key, _, value = pair.strip().partition(b"=")
        if key.lower() == name:
            return value.decode("latin-1")
    return ""
