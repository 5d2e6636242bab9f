"""The socket on which clients are accepted.

Rules:
- A port that another process uses is an error: a second gateway must not take half of the first one's clients.
- A process may move to another address at its own port: then both sockets are open for a moment.
- Where a new address cannot be had, the old one stays, unless the config relies on the new one to keep strangers out.
"""

from __future__ import annotations

import socket

from gateway.config.address import Listen
from gateway.config.outcome import Refused
from gateway.config.schema import Config

BACKLOG = 4096
"""Connections that may wait in the kernel's queue to be accepted."""


def opened(where: Listen, shared: bool = False, beside: socket.socket | None = None) -> socket.socket:
    """Return a listening socket. Raises OSError.

    Several processes can listen on one port if each passes `shared`. `beside` is a socket of this process that may
    have the same port.
    """
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if beside is not None:
            beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if shared or beside is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((where.host, where.port))
        # From here on the kernel accepts connections, so "listens on" can be printed before the server runs.
        listener.listen(BACKLOG)
        if not shared and beside is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except OSError:
        listener.close()
        raise
    finally:
        if not shared and beside is not None:
            beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    return listener


def why_not(where: Listen, error: OSError) -> str:
    """Say in one line that a socket cannot be opened."""
    return f"cannot listen on {where}: {error.strerror or error}"


def staying(config: Config, before: Config, flaw: str) -> tuple[Config, tuple[str, ...]]:
    """Return a config with the address of the one before, and what operators are told of that.

    `flaw` is why the new address cannot be had. Raises Refused where the config would let strangers in there.
    """
    server = config.server.model_copy(update={"listen": before.server.listen})
    stays = config.model_copy(update={"server": server})
    if not stays.guarded:
        raise Refused(f"{flaw}; and without keys it must not stay at {before.server.listen}")
    return stays, (f"server.listen stays {before.server.listen}: {flaw}",)
