"""Find the parts of an uploaded form (`multipart/form-data`) without any I/O. RFC 7578, RFC 2046.

Rules:
- A part is a name and a range of the body; its content is neither copied nor examined.
- Strict, because the engine parses the same form again: whatever two parsers may read differently is an error. That is
  text before the first part or after the last, line feeds without a carriage return, folded headers, escapes in names,
  and a boundary that goes on.
- Error messages are meant for the client who sent the form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_PARTS = 256
LONGEST_HEAD = 8 << 10
"""The most bytes of one part's headers."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\x20-\x7e])*"'
# Some clients do not quote boundaries that need quotes.
_BARE = rb"[!#$%&'*+,./:=?^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _TOKEN + rb")=(" + _BARE + rb"|" + _QUOTED + rb")[ \t]*")
_KIND = re.compile(rb"[ \t]*multipart/form-data[ \t]*", re.IGNORECASE)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_HEADER = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_DISPOSITION = re.compile(rb"form-data[ \t]*", re.IGNORECASE)
_AS_IT_IS = (b"binary", b"8bit", b"7bit")


class FormError(ValueError):
    """The form is invalid or ambiguous."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form; its content is `body[start:end]`. `filename` is None for a plain value."""

    name: str
    filename: bytes | None
    start: int
    end: int


def is_form(content_type: bytes) -> bool:
    """Return whether a body of this content type is a form with parts."""
    return content_type.partition(b";")[0].strip().lower() == b"multipart/form-data"


def boundary_of(content_type: bytes) -> bytes:
    """Return the boundary between the parts from a `Content-Type` header. Raise FormError if it has none."""
    kind = _KIND.match(content_type)
    if kind is None:
        raise FormError("the body is not a form (multipart/form-data)")
    boundary = _parameters(content_type[kind.end() :]).get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise FormError("the header 'Content-Type' names no valid boundary")
    return boundary


def parts_of(body: bytes, boundary: bytes) -> list[Part]:
    """Return the parts of a form in order. Raise FormError if the form is invalid."""
    mark = b"--" + boundary
    parts: list[Part] = []
    at = 2 if body.startswith(b"\r\n" + mark) else 0
    if not body.startswith(mark, at):
        raise FormError("the form does not begin with its boundary")
    at += len(mark)
    mark = b"\n" + mark
    while not body.startswith(b"--", at):
        if not body.startswith(b"\r\n", at):
            raise FormError("the boundary occurs within a part")
        if len(parts) == MOST_PARTS:
            raise FormError(f"the form has more than {MOST_PARTS} parts")
        head = at + 2
        blank = body.find(b"\r\n\r\n", at, head + LONGEST_HEAD)
        if blank < 0:
            raise FormError("the headers of a part have no end")
        start = blank + 4
        end = body.find(mark, blank + 3) - 1
        if end < 0:
            raise FormError("the form is cut off: its last boundary is missing")
        if end < start:
            raise FormError("a part has no content")
        if body[end : end + 1] != b"\r":
            raise FormError("a boundary follows a line feed alone")
        name, filename = named(body[head:blank])
        parts.append(Part(name, filename, start, end))
        at = end + 1 + len(mark)
    if body[at + 2 :] not in (b"", b"\r\n"):
        raise FormError("the form goes on after its last boundary")
    return parts


def replaced(body: bytes, part: Part, value: bytes) -> bytes:
    """Return the form with another value in one of its parts."""
    return b"".join((memoryview(body)[: part.start], value, memoryview(body)[part.end :]))


def named(head: bytes) -> tuple[str, bytes | None]:
    """Return a part's name and file name from its headers."""
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        found = _HEADER.fullmatch(line)
        if found is None:
            raise FormError("a part has a header that is not one")
        name = found[1].lower()
        if name in headers:
            raise FormError("a part has the same header twice")
        headers[name] = found[2].rstrip()
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in _AS_IT_IS:
        raise FormError("a part has a Content-Transfer-Encoding: send it as it is")
    said = headers.get(b"content-disposition", b"")
    kind = _DISPOSITION.match(said)
    parameters = {} if kind is None else _parameters(said[kind.end() :])
    named = parameters.get(b"name")
    if named is None or b"name*" in parameters:
        raise FormError("a part has no name: it needs 'Content-Disposition: form-data; name=\"...\"'")
    if b"\\" in named:
        raise FormError("a part's name has an escape in it")
    try:
        return named.decode(), parameters.get(b"filename")
    except UnicodeDecodeError:
        raise FormError("a part's name is not valid UTF-8") from None


def _parameters(text: bytes) -> dict[bytes, bytes]:
    """Return the parameters of a header (`; name=value`), with names in lower case."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter is None:
            raise FormError("a header of the form cannot be read")
        name, value, at = parameter[1].lower(), parameter[2], parameter.end()
        if name in found:
            raise FormError("a header of the form says the same thing twice")
        found[name] = value[1:-1] if value.startswith(b'"') else value
    return found


class Form:
    """A form of which parts are put and left out; every other byte stays as it was."""

    def __init__(self, body: bytes, boundary: bytes) -> None:
        """Take a form apart. Raises FormError if it is invalid."""
        self._body = body
        self._boundary = boundary
        self._parts = parts_of(body, boundary)
        self._new: dict[str, list[bytes]] = {}
        self._dropped: set[str] = set()

    @property
    def changed(self) -> bool:
        """Whether the form is another one than it was."""
        return bool(self._new or self._dropped)

    def text(self, name: str) -> bytes | None:
        """Return the content of the first part of a name; None where there is none."""
        if name in self._new:
            return self._new[name][0]
        for part in self._parts:
            if part.name == name and name not in self._dropped:
                return self._body[part.start : part.end]
        return None

    def drop(self, name: str) -> None:
        """Leave out every part of a name."""
        self._new.pop(name, None)
        if any(part.name == name for part in self._parts):
            self._dropped.add(name)

    def put(self, name: str, values: list[bytes]) -> None:
        """Have the parts of a name with these contents, before all others, instead of those there are."""
        self.drop(name)
        if values:
            self._new[name] = values

    def body(self) -> bytes:
        """Return the form. Raises FormError if what was put holds its boundary."""
        mark = b"--" + self._boundary
        at = 2 if self._body.startswith(b"\r\n") else 0
        pieces: list[bytes | memoryview] = [self._body[:at]]
        for name, values in self._new.items():
            for value in values:
                if mark in value:
                    raise FormError(f"the boundary of the form occurs in what belongs into {name!r}")
                head = b'Content-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n'
                pieces += (mark, b"\r\n", head, value, b"\r\n")
        view = memoryview(self._body)
        for part in self._parts:
            end = part.end + 2
            if part.name not in self._dropped:
                pieces.append(view[at:end])
            at = end
        return b"".join((*pieces, view[at:]))
