"""From a backend's host name to its addresses, anew for each connection, without waiting on anybody else's name.

Rules:
- Nothing is remembered: a name that moves is followed by the next connection.
- One look-up at a time per name, shared by all who wait for it. A resolver that hangs costs one thread, not the pool of
  threads that every other name needs too.
- An address needs no look-up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable

LookUp = Callable[[str, int], list[str]]
"""The addresses of a name, best first; it may wait. Raises OSError or UnicodeError."""


def system_look_up(name: str, port: int) -> list[str]:
    """What the system's resolver says."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Resolver:
    """Looks up one name."""

    def __init__(self, name: str, port: int, look_up: LookUp) -> None:
        self._name = name
        self._port = port
        self._look_up = look_up
        self._running: asyncio.Future[list[str]] | None = None
        self._is_address = _is_address(name)

    async def addresses(self) -> list[str]:
        """The addresses now, at least one. Raises OSError or UnicodeError. The look-up outlives who is cancelled."""
        if self._is_address:
            return [self._name]
        if self._running is None:
            self._start()
        assert self._running is not None
        return await asyncio.shield(self._running)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()
        self._running = answer

        def finish(found: list[str] | Exception) -> None:
            self._running = None
            if isinstance(found, Exception):
                answer.set_exception(found)
                answer.exception()  # nobody may be left who waits for it
            else:
                answer.set_result(found)

        def run() -> None:
            found: list[str] | OSError | UnicodeError
            try:
                found = self._look_up(self._name, self._port)
            except (OSError, UnicodeError) as error:
                found = error
            try:
                loop.call_soon_threadsafe(finish, found)
            except RuntimeError:
                pass  # the gateway has stopped meanwhile

        # A daemon: a resolver that hangs must not keep the gateway from ending.
        threading.Thread(target=run, name=f"look up {self._name}", daemon=True).start()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
