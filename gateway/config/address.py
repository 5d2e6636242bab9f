"""Addresses in the config file: where the gateway listens, and where a backend answers.

Rules:
- Pure: nothing is resolved or connected.
- A URL never holds a user or password, a query or a fragment. Errors do not repeat it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, PlainSerializer, PlainValidator, WithJsonSchema

from backends.facts.units import expected


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the gateway listens. Port 0 means any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


_LISTEN = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[a-zA-Z0-9.-]+)):(?P<port>[0-9]{1,5})")


def parse_listen(value: object) -> Listen:
    """Return the address in "host:port" or "[v6]:port". Raises PydanticCustomError for anything else."""
    what = "host:port such as 127.0.0.1:8080"
    if isinstance(value, Listen):
        return value
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if not match:
        port = re.fullmatch(r"[*]?:?([0-9]{1,5})", str(value))
        every = isinstance(value, str) and ":" in value
        raise expected(what, f'write "{"0.0.0.0" if every else "127.0.0.1"}:{port[1]}"' if port else None)
    host, port_number = match["six"] or match["host"], int(match["port"])
    if match["six"] or re.fullmatch(r"[0-9.]+", host):
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise expected(what) from None
    if port_number > 65535:
        raise expected("a port from 0 to 65535")
    return Listen(host, port_number)


def parse_url(value: str) -> str:
    """Return the base URL of a backend, without a slash or `/v1` at its end.

    Raises PydanticCustomError or ValueError for anything else.
    """
    what = "a URL such as http://host:8000"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise expected(what) from None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\x21-\x7e]+", value):
        bare = re.fullmatch(r"[a-zA-Z0-9.-]+:[0-9]{1,5}(/[\x21-\x7e]*)?", value)
        raise expected(what, f"write http://{value}" if bare else None)
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL must not hold a user or password: use api_key")
    if parts.query or parts.fragment or value.endswith(("?", "#")):
        raise ValueError("the URL must not hold a query or fragment")
    if (
        not re.fullmatch(r"[a-zA-Z0-9._-]+|[0-9a-fA-F:.]+", parts.hostname or "")
        or port == 0
        or parts.netloc[-1] == ":"
    ):
        raise expected(what)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


ListenAddress = Annotated[
    Listen,
    PlainValidator(parse_listen),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^(.+:[0-9]+|.*\$\{.*)$"}),
]

Url = Annotated[
    str,
    AfterValidator(parse_url),
    WithJsonSchema({"type": "string", "pattern": r"^(https?://[^?#@\s]+|.*\$\{.*)$"}),
]
