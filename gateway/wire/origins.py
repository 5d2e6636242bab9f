"""What the `Host` header of a request may be, and which hosts are this machine's own.

Rules:
- Pure functions of bytes. No look-up of names.
"""

from __future__ import annotations

from typing import Final

_NAME: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"
"""The characters of DNS names and IPv4 addresses, and the underscore, which names in containers have."""
_ADDRESS: Final = b"0123456789ABCDEFabcdef:."
"""The characters of an IPv6 address between its brackets."""


def is_host(value: bytes) -> bool:
    """Tell whether `value` is a host as RFC 9110, section 7.2 wants it: a name or an address, perhaps with a port."""
    if value.startswith(b"["):
        name, bracket, rest = value[1:].partition(b"]")
        if not bracket or (rest and not rest.startswith(b":")):
            return False
        port, allowed = rest[1:], _ADDRESS
    else:
        name, _, port = value.partition(b":")
        allowed = _NAME
    return bool(name) and not name.translate(None, allowed) and (not port or port.isdigit())


def is_own(host: bytes, listens: bytes) -> bool:
    """Tell whether `host`, with or without a port, is an address or a name that no other site can have.

    That is any IP address, `localhost` and what is below it, what is below `internal` (no public name is: ICANN has
    reserved it; `host.docker.internal` is one), and `listens`, where the gateway listens.
    """
    if not is_host(host):
        return False
    if host.startswith(b"["):
        return True
    name = host.partition(b":")[0].lower().removesuffix(b".")
    last = name.rpartition(b".")[2]
    return (
        name == listens or last == b"localhost" or (last == b"internal" and name != last) or _is_address(name)
    )


def _is_address(name: bytes) -> bool:
    """Tell whether `name` is an IPv4 address in its usual form."""
    parts = name.split(b".")
    return len(parts) == 4 and all(part.isdigit() and len(part) < 4 and int(part) < 256 for part in parts)
