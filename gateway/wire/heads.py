"""Parse the heads of plain requests strictly, and recognise a head that is repeated.

Rules:
- A plain request is a POST to a hot path with HTTP/1.1 and a body. It has exactly one Host and one Content-Length, no
  header twice, no transfer coding, no `Expect`, no `Upgrade`, and is within all limits. No other request is read here.
- Clients repeat the same head with only another body length. The results of parsing and checking a head are reused as
  long as every other byte is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import httptools

from gateway.request import Exchange, WayBack
from gateway.wire.limits import Limits
from gateway.wire.origins import is_host


class Handler(Protocol):
    """The handler of a hot path, as `gateway.api.endpoint.Endpoint` implements it."""

    def open(self, way: WayBack, headers: Mapping[bytes, bytes], began: int) -> Exchange: ...

    def admit(self, exchange: Exchange, known: object = None) -> object: ...

    def accept(self, exchange: Exchange, body: bytes) -> None: ...


class Head:
    """The head of a plain request. `length` is that of the body; `known` is the result of the handler's checks."""

    __slots__ = ("after", "before", "handler", "headers", "keep_alive", "known", "length")

    def __init__(self, handler: Handler) -> None:
        self.handler: Handler = handler
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive: bool = True
        self.length: int = 0
        self.before: bytes = b""
        """The bytes before the value of Content-Length."""
        self.after: bytes = b""
        """The bytes after it, up to the end of the head."""
        self.known: object = None

    def repeated(self, data: bytes, longest: int) -> int:
        """Return where the head in `data` ends if it differs from this one only in the body's length, else 0.

        The new length is stored. `longest` is the largest length that is allowed.
        """
        if not data.startswith(self.before):
            return 0
        start = len(self.before)
        stop = data.find(b"\r", start, start + 10)
        if stop < 0 or not data.startswith(self.after, stop):
            return 0
        digits = data[start:stop]
        if not digits.isdigit():
            return 0
        length = int(digits)
        if not 0 < length <= longest:
            return 0
        self.length = length
        return stop + len(self.after)


class HeadReader:
    """Parses one head, as the receiver of httptools' callbacks."""

    __slots__ = ("head", "hosts", "limits", "odd", "parser", "size")

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.head: Head = Head(handler)
        self.limits: Limits = limits
        self.odd: bool = False
        self.size: int = 0
        self.parser: httptools.HttpRequestParser | None = None

    def read(self, data: bytes) -> Head | None:
        """Return the head that is all of `data`, or None if it is not plain."""
        parser = self.parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        finally:
            # It knows this object in turn: a circle for each head would be the collector's to find.
            self.parser = None
        found, limits = self.head, self.limits
        headers = found.headers
        length = headers.get(b"content-length", b"")
        if (
            self.odd
            or not is_host(headers.get(b"host", b""))
            or not length.isdigit()
            or self.size > limits.headers
            or len(headers) > limits.header_count
            or parser.get_http_version() != "1.1"
        ):
            return None
        found.length = int(length)
        return found

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        # Read here, because the parser cannot tell it any more after this callback.
        self.head.keep_alive = self.parser.should_keep_alive()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.size += len(name) + len(value)
        name = name.lower()
        headers = self.head.headers
        if name in headers or name in _ODD:
            self.odd = True
        headers[name] = value


_ODD: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})


def read_head(data: bytes, end: int, hot: Mapping[bytes, Handler], limits: Limits) -> Head | None:
    """Return the head in `data` that ends at `end`, or None if it is not plain. `hot` are the handlers by path."""
    handler = hot.get(data[5 : data.find(b" ", 5)]) if data.startswith(b"POST ") else None
    if handler is None:
        return None
    lines = data[:end]
    found = HeadReader(handler, limits).read(lines)
    if found is None or not 0 < found.length <= limits.body:
        return None
    digits = found.headers[b"content-length"]
    start = lines.find(digits, lines.lower().find(b"\r\ncontent-length:") + 17)
    found.before = lines[:start]
    found.after = lines[start + len(digits) :]
    return found
