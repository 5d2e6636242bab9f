"""Embeddings as the client asked for them, where the engine gives them otherwise: shorter, or in another encoding.

OpenAI's clients ask for base64 unless they are told not to, and some of them cannot read anything else.

Rules:
- An answer that is as it was asked for keeps its bytes.
- A vector is made shorter as OpenAI does it, and as models that are trained for it expect: its first numbers, divided
  by their length (the square root of the sum of their squares).
- base64 holds 32-bit floats, the least significant byte first.
"""

from __future__ import annotations

import binascii
import math
import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence

import msgspec

from backends.base import Failure, Kind, Request
from backends.dialect import edits, rewrite

_BASE64 = "base64"
_FLOAT = "float"
_MEMBER = b'"dimensions"'


class _Wish(msgspec.Struct):
    encoding_format: str | None = None
    dimensions: int | None = None


class _Item(msgspec.Struct):
    embedding: msgspec.Raw = msgspec.Raw()


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw]


_wish = msgspec.json.Decoder(_Wish)
_item = msgspec.json.Decoder(_Item)
_answer = msgspec.json.Decoder(_Answer)
_text = msgspec.json.Decoder(str)
_floats = msgspec.json.Decoder(list[float])


def asked(request: Request, shortens: bool) -> Request:
    """Return a request for embeddings as an engine is asked, which may not make vectors shorter itself.

    Raise RequestError for a length that no vector has.
    """
    if _MEMBER not in request.body:
        return request
    members = rewrite.members(request.body)
    value = members.get("dimensions", b"null")
    if value.startswith(b"-") or value == b"0":
        raise edits.rejected("dimensions", "expected at least 1")
    if shortens or "dimensions" not in members:
        return request
    del members["dimensions"]
    return msgspec.structs.replace(request, body=rewrite.joined(members))


def answered(wanted: bytes, body: bytes) -> bytes | Failure:
    """Return an answer with the vectors as the client's request `wanted` asks for them.

    Raise ValueError where the answer cannot be read.
    """
    wish = _wish.decode(wanted)
    encoding = wish.encoding_format or _FLOAT
    if encoding not in (_FLOAT, _BASE64):
        return body
    items = _answer.decode(body).data
    vectors = [bytes(_item.decode(item).embedding) for item in items]
    if wish.dimensions is None and all(vector[:1] == b'"' for vector in vectors) is (encoding == _BASE64):
        return body
    data: list[bytes] = []
    changed = False
    for item, vector in zip(items, vectors, strict=True):
        found, is_new = _as_asked(vector, encoding, wish.dimensions)
        if found is None:
            message = f"'dimensions': the model's vectors have {_length(vector)} numbers"
            return Failure(Kind.REJECTED, message, param="dimensions")
        changed = changed or is_new
        data.append(rewrite.joined({**rewrite.members(bytes(item)), "embedding": found}))
    if not changed:
        return body
    return rewrite.joined({**rewrite.members(body), "data": b"[" + b",".join(data) + b"]"})


def _as_asked(vector: bytes, encoding: str, dimensions: int | None) -> tuple[bytes | None, bool]:
    """Return a vector in this encoding and with this length, and whether it was changed; None where it is too short."""
    numbers = _numbers(vector)
    if dimensions is not None and len(numbers) < dimensions:
        return None, False
    if dimensions is not None and len(numbers) > dimensions:
        numbers = shortened(numbers, dimensions)
    elif (vector[:1] == b'"') is (encoding == _BASE64):
        return vector, False
    if encoding == _BASE64:
        return b'"' + encoded(numbers).encode() + b'"', True
    return msgspec.json.encode(list(numbers)), True


def _length(vector: bytes) -> int:
    return len(_numbers(vector))


def _numbers(vector: bytes) -> Sequence[float]:
    """Return the numbers of a vector in JSON, in either encoding. Raise ValueError where it is neither."""
    if vector[:1] != b'"':
        return _floats.decode(vector)
    try:
        packed = array("f", b64decode(_text.decode(vector), validate=True))
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if sys.byteorder == "big":
        packed.byteswap()
    return packed


def shortened(numbers: Sequence[float], dimensions: int) -> list[float]:
    """Return the first `dimensions` numbers of a vector as one of length 1; of zeros alone as they are."""
    first = list(numbers[:dimensions])
    length = math.sqrt(math.fsum(number * number for number in first))
    return [number / length for number in first] if length else first


def encoded(numbers: Sequence[float]) -> str:
    """Return numbers as base64 of 32-bit floats."""
    packed = array("f", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return b64encode(packed.tobytes()).decode()
