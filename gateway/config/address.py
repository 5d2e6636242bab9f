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

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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


_VERSION = re.compile(r"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?:/openai)?")
"""A version of an API at the end of a path, as of OpenVINO (`/v3`), Google (`/v1beta/openai`) or Ark (`/api/v3`)."""
_ENDPOINTS = ("/chat/completions", "/api/chat", "/api/generate", "/api/tags", "/api/embed")
"""Ends of a path that are no base of an API, wherever they stand."""
_OPERATIONS = frozenset(("completions", "embeddings", "models", "responses", "messages", "rerank"))
"""The same behind a version."""


def api_prefix(path: str) -> tuple[str, str]:
    """Split the path of a backend's URL into what comes before the API, and the API's own prefix: `/v1` or another.

    Where the path ends in a version, requests for `/v1/...` go there instead; those for other paths, such as
    `/health`, go to what comes before it.
    """
    path = path.rstrip("/")
    for start in (path.rfind("/"), path.removesuffix("/openai").rfind("/")):
        if start >= 0 and _VERSION.fullmatch(path, start):
            return path[:start].rstrip("/"), path[start:]
    return path, "/v1"


def _without_endpoint(path: str) -> str | None:
    """Return the path without the endpoint at its end that somebody has pasted; None if there is none."""
    path = path.rstrip("/")
    for end in _ENDPOINTS:
        if path.endswith(end):
            return path.removesuffix(end)
    base, _, last = path.rpartition("/")
    return base if last in _OPERATIONS and api_prefix(base)[0] != base else None


def parse_url(value: str) -> str:
    """Return the base URL of a backend, without a slash or `/v1` at its end; another version stays.

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
    pasted = _without_endpoint(parts.path)
    if pasted is not None:
        raise expected("the URL without an endpoint", f"write {parts.scheme}://{parts.netloc}{pasted}")
    base, version = api_prefix(parts.path)
    return f"{parts.scheme}://{parts.netloc}{base}{'' if version == '/v1' else version}"


def parse_network(value: object) -> Network:
    """Return the network in "10.0.0.0/8", or the one of a single address. Raises PydanticCustomError."""
    what = "a network such as 10.0.0.0/8"
    if isinstance(value, Network):
        return value
    try:
        found = ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise expected(what) from None
    written, _, length = str(value).partition("/")
    if length and ipaddress.ip_address(written) != found.network_address:
        raise expected(what, f"write {found}")
    return found


IpNetwork = Annotated[
    Network,
    PlainValidator(parse_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^([0-9a-fA-F:.]+(/[0-9]{1,3})?|.*\$\{.*)$"}),
]

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
