"""What the `Host` header of a request may be.

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
