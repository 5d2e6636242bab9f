"""Resolve a backend's host name to its addresses, again for each new connection.

Rules:
- A name is looked up for each new connection, so the next one follows a name whose addresses have changed.
- Where a look-up fails or takes long, the last good addresses serve: a name server that fails ends no engine.
- Each name has at most one look-up at a time, shared by all that wait for it, in a thread of its own. So a name server
  that hangs blocks one thread, and not the event loop's thread pool, which all other names would need.
- An IP address needs no look-up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable

PATIENCE = 0.25
"""Seconds to wait for a look-up while the addresses of the last one are known."""

LookUp = Callable[[str, int], list[str]]
"""Returns the addresses of a name, best first; it may block. Raises OSError or UnicodeError."""


def system_look_up(name: str, port: int) -> list[str]:
    """Return the addresses that the system's resolver gives."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Resolver:
    """Resolves one name."""

    def __init__(self, name: str, port: int, look_up: LookUp) -> None:
        self._name = name
        self._port = port
        self._look_up = look_up
        self._running: asyncio.Future[list[str]] | None = None
        self._last: list[str] = [name] if _is_address(name) else []
        """The addresses that the last good look-up found."""
        self._is_address = bool(self._last)

    @property
    def known(self) -> bool:
        """Whether the name has an address, as far as was ever found out."""
        return bool(self._last)

    async def addresses(self) -> list[str]:
        """Return the current addresses, or the last good ones, at least one.

        If the caller is cancelled, the look-up continues for others that wait for it.

        Raises:
            OSError, UnicodeError: The name has no address, and never had one.
        """
        if self._is_address:
            return self._last
        if self._running is None:
            self._start()
        assert self._running is not None
        if not self._last:
            return await asyncio.shield(self._running)
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(self._running)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            return self._last

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()
        self._running = answer

        def finish(found: list[str] | Exception) -> None:
            self._running = None
            if isinstance(found, Exception):
                answer.set_exception(found)
                answer.exception()  # marks it as retrieved: asyncio would log it if nobody waits any more
            else:
                self._last = found
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
                pass  # the event loop was closed meanwhile

        # A daemon thread, so that a look-up that hangs cannot keep the process from exiting.
        threading.Thread(target=run, name=f"look up {self._name}", daemon=True).start()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
