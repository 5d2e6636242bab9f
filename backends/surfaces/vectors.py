"""The vectors in OpenAI's answer to a request for embeddings, for dialects that have them in another place."""

from __future__ import annotations

import msgspec


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]


_decode = msgspec.json.Decoder(_Vectors).decode


def in_order(answer: bytes) -> list[msgspec.Raw]:
    """Return the vectors as JSON, in the order of the texts. Raise ValueError if they cannot be read."""
    return [one.embedding for one in sorted(_decode(answer).data, key=lambda one: one.index)]
