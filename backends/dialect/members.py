"""A JSON object or list taken apart, edited, and put together again with every other byte as it was.

Rules:
- Spaces, escapes, the order of members and the spelling of numbers stay as the client wrote them. Only what is put or
  dropped changes, with one comma beside it.
- Where a key stands in an object twice its last value counts, as everywhere (`backends.dialect.rewrite`); such an
  object is put together from its members, so that no other value remains that another parser might prefer.
- What is taken apart was read before: it is an object or a list, in valid JSON.
"""

from __future__ import annotations

import msgspec

from backends.dialect.rewrite import joined

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
_SPACE = b" \t\r\n"


class Pieces:
    """The values of an object or a list with what stands around them."""

    __slots__ = ("_end", "_gaps", "_heads", "_opening", "_values", "changed")

    def __init__(self) -> None:
        self._opening: bytes = b""
        """The opening bracket with what stands before it."""
        self._gaps: list[bytes] = []
        """What stands before each entry: spaces, and a comma but before the first."""
        self._heads: list[bytes] = []
        """The key of each entry up to its value; empty in a list."""
        self._values: list[bytes | None] = []
        """The value of each entry; None where it was dropped."""
        self._end: bytes = b""
        self.changed: bool = False

    def _joined(self, new: list[bytes]) -> bytes:
        """Return the JSON as it is now, with new entries before all others."""
        parts: list[bytes] = []
        for index, value in enumerate(self._values):
            if value is not None:
                if parts:
                    parts.append(self._gaps[index])
                parts += (self._heads[index], value)
        added = b",".join(new)
        if added and parts:
            added += b","
        before = self._gaps[0] if self._gaps else b""
        return b"".join((self._opening, before, added, *parts, self._end))


class Members(Pieces):
    """The members of an object."""

    __slots__ = ("_at", "_new")

    def __init__(self, body: bytes) -> None:
        """Take an object apart."""
        Pieces.__init__(self)
        self._at: dict[str, int] = {}
        self._new: dict[str, bytes] = {}
        found = {name: bytes(raw) for name, raw in _members.decode(body).items()}
        if not self._take(body, found):
            self._gaps, self._heads, self._values, self._at = [], [], [], {}
            self._take(joined(found), found)
            self.changed = True

    def get(self, name: str) -> bytes | None:
        """Return the JSON of a member; None where there is none."""
        at = self._at.get(name)
        return self._new.get(name) if at is None else self._values[at]

    def put(self, name: str, value: bytes) -> None:
        """Give a member a value, as JSON; a new one comes first."""
        at = self._at.get(name)
        if at is None:
            self._new[name] = value
            self.changed = True
        elif self._values[at] != value:
            self._values[at] = value
            self.changed = True

    def drop(self, name: str) -> None:
        """Leave a member out."""
        at = self._at.pop(name, -1)
        if at >= 0:
            self._values[at] = None
            self.changed = True
        self._new.pop(name, None)

    def body(self) -> bytes:
        """Return the object as it is now."""
        return self._joined([msgspec.json.encode(name) + b":" + value for name, value in self._new.items()])

    def _take(self, body: bytes, found: dict[str, bytes]) -> bool:
        """Find the members in the text; return whether each stands there once, with the value that counts."""
        at = gap = body.index(b"{") + 1
        self._opening = body[:at]
        while True:
            at = _after_space(body, at)
            if body[at : at + 1] == b"}":
                break
            start, at = at, _string_end(body, at)
            name = _text.decode(body[start:at])
            at = _after_space(body, _after_space(body, at) + 1)
            value = found[name]
            if name in self._at or not body.startswith(value, at):
                return False
            self._at[name] = len(self._values)
            self._gaps.append(body[gap:start])
            self._heads.append(body[start:at])
            self._values.append(value)
            gap = at = at + len(value)
            at = _after_space(body, at)
            sign = body[at : at + 1]
            if sign == b"}":
                break
            if sign != b",":
                return False
            at += 1
        self._end = body[gap:]
        return True


class Items(Pieces):
    """The items of a list."""

    __slots__ = ("_new",)

    def __init__(self, body: bytes) -> None:
        """Take a list apart."""
        Pieces.__init__(self)
        self._new: list[bytes] = []
        at = gap = body.index(b"[") + 1
        self._opening = body[:at]
        for raw in _items.decode(body):
            value = bytes(raw)
            at = _after_space(body, at)
            self._gaps.append(body[gap:at])
            self._heads.append(b"")
            self._values.append(value)
            gap = at + len(value)
            at = _after_space(body, gap) + 1  # behind the comma
        self._end = body[gap:]

    @property
    def first(self) -> bytes | None:
        """The JSON of the first item that was not dropped; None where there is none."""
        return next((value for value in self._values if value is not None), None)

    def put_first(self, value: bytes) -> None:
        """Replace the first item."""
        for index, before in enumerate(self._values):
            if before is not None:
                self._values[index] = value
                self.changed = True
                return

    def drop_first(self) -> None:
        """Leave the first item out."""
        for index, before in enumerate(self._values):
            if before is not None:
                self._values[index] = None
                self.changed = True
                return

    def insert(self, value: bytes) -> None:
        """Put a new item before all others."""
        self._new.append(value)
        self.changed = True

    @property
    def values(self) -> list[bytes]:
        """The JSON of all items that were not dropped, without new ones."""
        return [value for value in self._values if value is not None]

    def insert_behind(self, count: int, values: list[bytes]) -> None:
        """Put new items behind the first `count`, of which none was dropped."""
        if not count:
            self._new += values
        else:
            self._gaps[count:count] = [b","] * len(values)
            self._heads[count:count] = [b""] * len(values)
            self._values[count:count] = [*values]
        self.changed = True

    def body(self) -> bytes:
        """Return the list as it is now."""
        return self._joined(self._new)


def _after_space(body: bytes, at: int) -> int:
    """Return where the next sign that is no space stands."""
    while at < len(body) and body[at] in _SPACE:
        at += 1
    return at


def _string_end(body: bytes, start: int) -> int:
    """Return where the string that begins at `start` is over."""
    at = body.index(b'"', start + 1)
    while body[at - 1] == 0x5C:
        first = at - 1
        while body[first - 1] == 0x5C:
            first -= 1
        if (at - first) % 2 == 0:
            break
        at = body.index(b'"', at + 1)
    return at + 1
