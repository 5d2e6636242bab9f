"""Read a decoded JSON body member by member; a mistake names its place in the words of the client's own request.

Rules:
- A place is a path such as `messages.3.content.0.source`, which becomes the error's `param`.
- null is the same as nothing: SDKs send it for what was not set.
"""

from __future__ import annotations

from typing import Any

from backends.surfaces.surface import InvalidRequest

Members = dict[str, Any]


def wrong(place: str, message: str) -> InvalidRequest:
    """Return the error for something wrong at a place."""
    return InvalidRequest(f"'{place}': {message}", param=place)


def member(holder: Members, name: str, place: str, kind: type[Any], called: str) -> Any:
    """Return a member that must be there. Raise InvalidRequest where it is missing or no `kind`, `called` so."""
    value = holder.get(name)
    at = f"{place}.{name}" if place else name
    if value is None:
        raise InvalidRequest(f"'{at}' is missing", param=at, code="missing_field")
    if not isinstance(value, kind):
        raise wrong(at, f"expected {called}")
    return value


def optional(holder: Members, name: str, place: str, kind: type[Any], called: str) -> Any:
    """Return a member, or None where it is missing. Raise InvalidRequest where it is no `kind`, `called` so."""
    if holder.get(name) is None:
        return None
    return member(holder, name, place, kind, called)


def text(holder: Members, name: str, place: str) -> str:
    """Return a text that must be there."""
    found: str = member(holder, name, place, str, "a text")
    return found


def items(holder: Members, name: str, place: str) -> list[Any]:
    """Return a list, empty where it is missing."""
    return optional(holder, name, place, list, "a list") or []


def each(values: list[Any], place: str) -> list[tuple[str, Members]]:
    """Return the objects of a list with their places. Raise InvalidRequest where one is no object."""
    found = [(f"{place}.{number}", value) for number, value in enumerate(values)]
    for at, value in found:
        if not isinstance(value, dict):
            raise wrong(at, "expected an object")
    return found
