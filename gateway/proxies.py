"""Whose address a request comes from, where proxies stand before the gateway.

Rules:
- Only what a trusted proxy says is believed. To `X-Forwarded-For` each proxy adds at the end whom it was asked by; so,
  going back from the end through the trusted hops, the first other one is the client.
- `Forwarded` is not read. A proxy that writes one of the two headers passes on the other as the client sent it: who
  reads both lets clients choose their address.
- An entry that is no address ends the search: the client is then whoever passed it on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HEADER: Final = b"x-forwarded-for"
HOPS: Final = 64
"""Most entries that are looked at."""
_LONGEST: Final = 64
"""Most bytes of an entry: an IPv6 address in brackets with a port has fewer."""


class Proxies:
    """The proxies that one config trusts."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[Network]) -> None:
        """Trust these networks."""
        self._networks: tuple[Network, ...] = tuple(networks)

    def client(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """Return the client's address, of a request with these headers that came from `peer`."""
        if not self._networks:
            return peer
        found = address(peer)
        if found is None or not self._trusts(found):
            return peer
        for entry in headers.get(HEADER, b"").rsplit(b",", HOPS)[: -HOPS - 1 : -1]:
            before = address(entry.decode("latin-1")) if len(entry) <= _LONGEST else None
            if before is None:
                break
            found = before
            if not self._trusts(found):
                break
        return str(found)

    def _trusts(self, found: Address) -> bool:
        return any(found in network for network in self._networks)


def address(text: str) -> Address | None:
    """Return an IP address with or without a port, brackets and quotes; None for anything else.

    An IPv4 address that comes as an IPv6 one, as on a socket for both, is an IPv4 address.
    """
    text = text.strip(' \t"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
