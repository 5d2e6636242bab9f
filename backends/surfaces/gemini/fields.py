"""Read the objects of Google's API, whose JSON is that of protocol buffers: a member has two names.

Rules:
- `systemInstruction` and `system_instruction` are the same member, as in Google's own API, and its documents use both.
  What a mistake names is the first form.
- Where a list is expected a single object is a list of it: Google takes that, too.
- Names within a client's own data (arguments, JSON schemas, the properties of a schema) are never touched.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.surfaces.places import Members, each, optional

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def body_of(body: bytes) -> Members:
    """Return the members of a request's body by their first names. Raises msgspec's errors."""
    return fields(_decode(body))


def fields(holder: Members) -> Members:
    """Return an object with the first name of each of its members."""
    if not any("_" in name for name in holder):
        return holder
    return {_camel(name): value for name, value in holder.items()}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join([part[:1].upper() + part[1:] for part in others]) if first else name


def inner(holder: Members, name: str, place: str) -> Members | None:
    """Return an object that is a member, by the names above; None where it is missing."""
    found = optional(holder, name, place, dict, "an object")
    return None if found is None else fields(found)


def several(holder: Members, name: str, place: str) -> list[tuple[str, Members]]:
    """Return the objects of a list with their places; none where it is missing."""
    found = holder.get(name)
    at = f"{place}.{name}" if place else name
    if isinstance(found, dict):
        return [(at, fields(found))]
    listed = optional(holder, name, place, list, "a list") or []
    return [(where, fields(one)) for where, one in each(listed, at)]
