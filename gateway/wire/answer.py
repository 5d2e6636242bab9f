"""An engine's answer before it is understood: what its head says of it, and its bytes as far as they are held back."""

from __future__ import annotations

from typing import Final

from backends.base import Headers, Operation, Request
from backends.dialect.openai import FORMS

SMALL_PARTS: Final = 512
"""How many parts are held before they are put together to one."""


class Held:
    """The bytes of an answer that are held back. They take as much memory as they are, however small the parts."""

    __slots__ = ("_merged", "_parts", "size")

    def __init__(self) -> None:
        self.size: int = 0
        self._parts: list[bytes] = []
        self._merged: int = 0
        """How many of the parts, the first ones, were put together from others."""

    def add(self, data: bytes) -> None:
        """Hold back more bytes."""
        self.size += len(data)
        parts, merged = self._parts, self._merged
        parts.append(data)
        if len(parts) - merged > SMALL_PARTS:
            together = b"".join(parts[merged:])
            del parts[merged:]
            parts.append(together)
            self._merged = merged + 1

    def take(self) -> bytes:
        """Return what was held back, and hold nothing more."""
        whole = b"".join(self._parts)
        self._parts = []
        self.size = self._merged = 0
        return whole


def content_type(headers: Headers) -> Headers:
    """Return the content type header of an engine's answer, in a list that is empty if there is none."""
    return [header for header in headers if header[0] == b"content-type"][:1]


def is_stream(headers: Headers, types: tuple[bytes, ...]) -> bool:
    """Return whether the head of an answer says that it is a stream: its content type begins as one of `types`."""
    for name, value in headers:
        if name == b"content-type":
            return value.startswith(types) or value.lower().startswith(types)
    return False


def may_be_stream(request: Request) -> bool:
    """Return whether a body that looks like a stream is one, whatever its head says.

    A whole transcription or sound may look like anything.
    """
    operation = request.operation
    return request.stream or not (operation in FORMS or operation is Operation.SPEECH)
