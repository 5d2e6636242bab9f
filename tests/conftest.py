"""What holds for every test: nothing leaves this machine, nothing of the caller's shell shines in, nothing is random.

Rules:
- A connection to an address that is not loopback is refused, whoever opens it in this process.
- Variables that would change what a client library or the gateway does are gone before a test is collected.
- Property tests draw the same examples on every run, so a red test is red again.
"""

import ipaddress
import os
import sys

from hypothesis import settings

FOREIGN = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "OPENAI_",
    "LANGCHAIN_",
    "LANGSMITH_",
    "GATEWAY_",
)

for name in [name for name in os.environ if name.upper().startswith(FOREIGN)]:
    del os.environ[name]

settings.register_profile("same-every-time", derandomize=True, deadline=None, database=None)
settings.load_profile("same-every-time")


def is_here(host: str) -> bool:
    """Whether a connection to this host stays on this machine."""
    if host in {"", "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def stay_here(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: refuse to leave the machine. (uvloop connects below Python and is not seen.)"""
    if event not in {"socket.connect", "socket.sendto"}:
        return
    address = arguments[1]
    if isinstance(address, tuple) and not is_here(str(address[0])):
        raise PermissionError(f"tests talk to loopback only, not to {address[0]}")


sys.addaudithook(stay_here)
