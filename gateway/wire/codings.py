"""Compressed bodies of requests (`Content-Encoding`): gzip, deflate, Brotli and Zstandard.

Rules:
- Pure. The size of what comes out is limited while it comes out: a small body cannot become a large one in memory.
- Exactly one coding, and whole streams of it: what is cut off, or followed by something else, is broken.
- The time is in proportion to the body: it is read in slices, since a decoder copies what follows the end of a stream,
  and a body has at most so many streams, since each costs a decoder.
- Bodies of some megabytes take tens of milliseconds: decode them off the event loop.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import brotli

from gateway.errors import GatewayError, Own

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE: Final = 256 << 10
"""Most bytes that come out of a decoder in one step."""
_SLICE: Final = 64 << 10
"""Most bytes that go into a decoder in one step."""
STREAMS: Final = 1000
"""Most gzip members, or Zstandard frames, of one body."""
_WINDOW: Final = 23
"""The logarithm of the window that every decoder of Zstandard on the web has, 8 MiB (RFC 9659)."""


class _TooLargeError(Exception):
    """More came out than the limit allows."""


class _Out:
    """What has come out of a decoder."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: list[bytes] = []
        self._left = limit

    def add(self, part: bytes) -> None:
        """Take a part. Raises _TooLargeError."""
        self._left -= len(part)
        if self._left < 0:
            raise _TooLargeError
        self._parts.append(part)

    def whole(self) -> bytes:
        """Return everything."""
        return b"".join(self._parts)


class _TooManyError(Exception):
    """The body has more streams than any client has a reason for."""


def _inflate(data: bytes, at: int, out: _Out, wbits: int) -> int:
    """Decode the stream of zlib's that begins at `at`, and return where it ends."""
    decoder = zlib.decompressobj(wbits)
    piece = b""
    while not decoder.eof:
        if not piece:
            piece = data[at : at + _SLICE]
            at += len(piece)
        is_last = not piece
        part = decoder.decompress(piece, _PIECE)
        piece = decoder.unconsumed_tail
        if is_last and not part and not decoder.eof:
            raise EOFError
        out.add(part)
    return at - len(decoder.unused_data)


def _all(data: bytes, one: Callable[[int], int]) -> None:
    """Decode all streams of a body; `one` decodes the one that begins at an index and returns where it ends."""
    at = streams = 0
    while at < len(data):
        streams += 1
        if streams > STREAMS:
            raise _TooManyError
        at = one(at)


def _gzip(data: bytes, out: _Out) -> None:
    _all(data, lambda at: _inflate(data, at, out, 31))  # a body may have several members (RFC 1952)


def _deflate(data: bytes, out: _Out) -> None:
    # The coding is zlib's format (RFC 9110, section 8.4.1.2), but some clients send the bare stream.
    is_zlib = len(data) > 1 and data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
    if _inflate(data, 0, out, 15 if is_zlib else -15) < len(data):
        raise ValueError


def _brotli(data: bytes, out: _Out) -> None:
    decoder = brotli.Decompressor()
    part = decoder.process(data, output_buffer_limit=_PIECE)
    while part:
        out.add(part)
        part = b"" if decoder.is_finished() else decoder.process(b"", output_buffer_limit=_PIECE)
    if not decoder.is_finished():
        raise EOFError


def _zstd(data: bytes, out: _Out) -> None:
    # A frame that states its size has a window as large as that.
    options: dict[int, int] = {
        zstd.DecompressionParameter.window_log_max: max(_WINDOW, out.limit.bit_length())
    }

    def frame(at: int) -> int:
        decoder = zstd.ZstdDecompressor(options=options)
        while not decoder.eof:
            piece = b""
            if decoder.needs_input:
                piece = data[at : at + _SLICE]
                at += len(piece)
                if not piece:
                    raise EOFError
            out.add(decoder.decompress(piece, _PIECE))
        return at - len(decoder.unused_data)

    _all(data, frame)  # a body may have several frames (RFC 8878)


_CODINGS: Final[Mapping[bytes, Callable[[bytes, _Out], None]]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"deflate": _deflate,
    b"br": _brotli,
    b"zstd": _zstd,
}
_BROKEN: Final = (EOFError, ValueError, zlib.error, brotli.error, zstd.ZstdError)


def coding_of(headers: Mapping[bytes, bytes]) -> bytes:
    """Return how a request's body is coded, empty if it is not. Raises GatewayError (415) for an unknown coding."""
    value = headers.get(b"content-encoding")
    if value is None:
        return b""
    coding = value.strip().lower()
    if coding in _CODINGS:
        return coding
    if coding in (b"", b"identity"):
        return b""
    message = "a body is taken as it is, or compressed with one of gzip, zstd, deflate and br"
    raise GatewayError(Own.MEDIA_TYPE, message, headers=((b"accept-encoding", b"gzip, zstd, deflate, br"),))


def decoded(coding: bytes, body: bytes, limit: int) -> bytes:
    """Return the plain body. `coding` is a result of `coding_of`, `limit` the most bytes of the plain body.

    Raises:
        GatewayError: 413 beyond the limit, 400 if the body is not what the header says.
    """
    if not coding:
        return body
    out = _Out(limit)
    try:
        if not body:
            raise EOFError
        _CODINGS[coding](body, out)
    except _TooLargeError:
        raise GatewayError(Own.TOO_LARGE, f"the request body is larger than {limit} bytes, decoded") from None
    except _TooManyError:
        message = f"the body has more than {STREAMS} members or frames of {coding.decode()}"
        raise GatewayError(Own.INVALID, message, code="invalid_coding") from None
    except _BROKEN:
        message = f"the body is no whole {coding.decode()}, as its header says"
        raise GatewayError(Own.INVALID, message, code="invalid_coding") from None
    return out.whole()
