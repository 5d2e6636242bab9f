"""What a process is called in the store, where it says that it works on something, and whether it is gone.

Rules:
- A process of another machine, or of another container, is never known to be gone: only its silence tells.
"""

from __future__ import annotations

import os
import secrets
import socket
import uuid


def this_host() -> str:
    """Return what this machine is called in leases; containers count as machines."""
    return f"{socket.gethostname()[:40]}-{uuid.getnode():012x}:"


def this_process() -> str:
    """Return a name for this process that no other one has had."""
    return f"{this_host()}{os.getpid()}:{secrets.token_hex(4)}"


def is_gone(name: str) -> bool:
    """Tell whether a process of this name is known to have ended."""
    host = this_host()
    number = name.removeprefix(host).partition(":")[0]
    if not name.startswith(host) or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
