"""Read an uploaded form (`multipart/form-data`) as its bytes come, whatever their pieces. RFC 7578, RFC 2046.

Rules:
- At most one boundary's length and one part's head are held; the content of parts is handed on as it comes.
- As strict as `backends.framing.multipart`, which reads whole bodies: text before the first part or after the last, and
  heads of parts that can be read in two ways, are errors.
- Error messages are meant for the client who sent the form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backends.framing.multipart import LONGEST_HEAD, MOST_PARTS, FormError, named


@dataclass(frozen=True, slots=True)
class Begin:
    """A part begins. `filename` is None for a plain value."""

    name: str
    filename: bytes | None


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the part that has begun last; it ends where another begins, or the form does."""

    data: bytes


Event = Begin | Content

_BEFORE, _MARKED, _HEAD, _CONTENT, _OVER = range(5)
_END: Final = b"\r\n"


class Reader:
    """One form, as it comes."""

    def __init__(self, boundary: bytes) -> None:
        """Read a form whose parts are divided by `boundary`."""
        self._mark: bytes = b"\r\n--" + boundary
        self._state: int = _BEFORE
        self._held: bytes = b""
        self._parts: int = 0
        self._lead: int = 0
        """Bytes at the beginning of what is held that are no content."""

    def feed(self, data: bytes) -> list[Event]:
        """Return what is known by more bytes. Raises FormError if the form is invalid."""
        self._held += data
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def close(self) -> None:
        """Take note that no more bytes come. Raises FormError if the form has not ended."""
        if self._state != _OVER:
            raise FormError("the form is cut off: its last boundary is missing")
        if self._held not in (b"", _END):
            raise FormError("the form goes on after its last boundary")

    def _step(self, events: list[Event]) -> bool:
        """Read as far as the state is the same. Return whether there is more to read now."""
        if self._state == _CONTENT:
            return self._content(events)
        if self._state == _HEAD:
            return self._head(events)
        if self._state == _MARKED:
            return self._marked()
        if self._state == _BEFORE:
            return self._before()
        if len(self._held) > len(_END):
            raise FormError("the form goes on after its last boundary")
        return False

    def _before(self) -> bool:
        # The first boundary may or may not have a line end before it.
        held = self._held if self._held.startswith(b"\r") else _END + self._held
        if len(held) < len(self._mark):
            if not self._mark.startswith(held):
                raise FormError("the form does not begin with its boundary")
            return False
        if not held.startswith(self._mark):
            raise FormError("the form does not begin with its boundary")
        self._held, self._state = held[len(self._mark) :], _MARKED
        return True

    def _marked(self) -> bool:
        """Read what follows on a boundary: another part, or the end."""
        following, rest = self._held[:2], self._held[2:]
        if len(following) < 2:
            return False
        if following == b"--":
            self._state = _OVER
        elif following == _END:
            self._state = _HEAD
            self._parts += 1
            if self._parts > MOST_PARTS:
                raise FormError(f"the form has more than {MOST_PARTS} parts")
        else:
            raise FormError("the boundary occurs within a part")
        self._held = rest
        return True

    def _head(self, events: list[Event]) -> bool:
        head, blank, rest = self._held.partition(b"\r\n\r\n")
        if len(head) > LONGEST_HEAD:
            raise FormError("the headers of a part have no end")
        if not blank:
            return False
        events.append(Begin(*named(head)))
        # With the line end before it a boundary that follows at once is found, where content is missing.
        self._held, self._lead, self._state = _END + rest, len(_END), _CONTENT
        return True

    def _content(self, events: list[Event]) -> bool:
        held, mark, lead = self._held, self._mark, self._lead
        at = held.find(mark)
        if at == 0 and lead:
            raise FormError("a part has no content")
        sure = at if at >= 0 else len(held) - len(mark) + 1
        if sure > lead:
            events.append(Content(held[lead:sure]))
        if sure >= lead:
            self._held, self._lead = held[sure:], 0
        if at < 0:
            return False
        self._held, self._state = held[at + len(mark) :], _MARKED
        return True
